use super::*;

fn nano(export: &Export) -> Vec<(String, String, i128)> {
    let line = |line: &Line| (line.day.clone(), line.model.clone(), line.billed.amount.expect("an amount").nano());
    export.lines.iter().map(line).collect()
}

fn text(day: &str, model: &str, nano: i128) -> (String, String, i128) {
    (day.to_owned(), model.to_owned(), nano)
}

#[test]
fn openai_costs_are_dollars_by_line_item() {
    let json = r#"{"object":"page","data":[
      {"object":"bucket","start_time":1730419200,"end_time":1730505600,"results":[
        {"object":"organization.costs.result","amount":{"value":0.06,"currency":"usd"},"line_item":"gpt-4o-2024-08-06, input","project_id":"proj_a"},
        {"object":"organization.costs.result","amount":{"value":1.2e-05,"currency":"usd"},"line_item":null,"project_id":null}]},
      {"object":"bucket","start_time":1730505600,"end_time":1730592000,"results":[]}],"has_more":false,"next_page":null}"#;
    let export = read(json).expect("an export");
    assert_eq!(nano(&export), [text("2024-11-01", "gpt-4o-2024-08-06", 60_000_000), text("2024-11-01", "", 12_000)]);
    assert_eq!(export.lines[0].workspace, "proj_a");
    assert_eq!(export.days().into_iter().collect::<Vec<_>>(), ["2024-11-01", "2024-11-02"]);
    let csv = "\u{feff}start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,quantity_unit,line_item,user_id,api_key_id,project_id\r\n\
        1730505600,1730592000,2024-11-02T00:00:00+00:00,,,,,,,,,\r\n\
        1730419200,1730505600,2024-11-01T00:00:00+00:00,,0.003835980000000000000000000000,usd,1000,tokens,\"gpt-5-nano, input_tokens\",,key_1,proj_a\r\n";
    let export = read(csv).expect("an export");
    assert_eq!(nano(&export), [text("2024-11-01", "gpt-5-nano", 3_835_980)]);
    assert_eq!((export.lines[0].key.as_str(), export.days().len()), ("key_1", 2));
}

#[test]
fn openai_usage_counts_cached_tokens_within_the_input() {
    let page = |more: bool| {
        let starts = if more { 1_730_419_200 } else { 1_730_505_600 };
        format!(
            r#"{{"object":"page","data":[{{"object":"bucket","start_time":{starts},"results":[
            {{"object":"organization.usage.completions.result","input_tokens":1000,"output_tokens":500,"input_cached_tokens":800,
              "num_model_requests":5,"project_id":null,"api_key_id":"key_1","model":"gpt-4o","batch":null}}]}}],"has_more":{more}}}"#
        )
    };
    // Pages one after the other, and in an array.
    for text in [format!("{}\n{}", page(true), page(false)), format!("[{},{}]", page(true), page(false))] {
        let export = read(&text).expect("an export");
        assert_eq!(export.lines.len(), 2);
        let billed = export.lines[0].billed;
        assert_eq!((billed.requests, billed.input, billed.cache_read), (Some(5), Some(1_000), Some(800)));
        assert_eq!((billed.output, billed.cache_write, billed.amount), (Some(500), None, None));
    }
    assert_eq!(read(&page(true)), Err(ExportError::MorePages));
    let csv = "start_time,num_model_requests,api_key_id,model,input_tokens,output_tokens,input_cached_tokens\n1730419200,3.0,k,gpt-4o,1000,500,800\n";
    let billed = read(csv).expect("an export").lines[0].billed;
    assert_eq!((billed.requests, billed.input, billed.output), (Some(3), Some(1_000), Some(500)));
}

#[test]
fn anthropic_usage_is_disjoint_and_its_costs_are_cents() {
    let usage = r#"{"data":[{"starting_at":"2026-11-24T00:00:00Z","ending_at":"2026-11-25T00:00:00Z","results":[
      {"uncached_input_tokens":1500,"cache_creation":{"ephemeral_1h_input_tokens":1000,"ephemeral_5m_input_tokens":500},
       "cache_read_input_tokens":200,"output_tokens":500,"server_tool_use":{"web_search_requests":10},"api_key_id":"apikey_1",
       "workspace_id":"wrkspc_1","model":"claude-sonnet-4-5-20250929","service_tier":"standard","context_window":"0-200k"}]}],
      "has_more":false,"next_page":null}"#;
    let export = read(usage).expect("an export");
    let line = &export.lines[0];
    assert_eq!((line.provider.as_str(), line.workspace.as_str()), ("anthropic", "wrkspc_1"));
    let billed = line.billed;
    assert_eq!((billed.input, billed.cache_read, billed.cache_write), (Some(3_200), Some(200), Some(1_500)));
    let costs = r#"{"data":[{"starting_at":"2026-11-24T00:00:00Z","ending_at":"2026-11-25T00:00:00Z","results":[
      {"currency":"USD","amount":"123.45","workspace_id":null,"description":"Claude Sonnet 4.5 Usage - Input Tokens",
       "cost_type":"tokens","model":"claude-sonnet-4-5-20250929","token_type":"uncached_input_tokens"}]}],"has_more":false}"#;
    let day = |nano| [text("2026-11-24", "claude-sonnet-4-5-20250929", nano)];
    assert_eq!(nano(&read(costs).expect("an export")), day(1_234_500_000));
    let csv = "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,\
        usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count,inference_geo,speed\n\
        2026-11-24,claude-sonnet-4-5-20250929,\"a, key\",Default,standard,≤ 200k,1500,500,1000,200,500,0,global,\n";
    assert_eq!(read(csv).expect("an export").lines[0].billed, billed);
    assert_eq!(read(csv).expect("an export").lines[0].key, "a, key");
    let csv = "usage_date_utc,model,workspace,api_key,token_type,cost_usd\n2026-11-24,Claude Sonnet 4.5,Default,k,output,1.25\n";
    assert_eq!(nano(&read(csv).expect("an export")), [text("2026-11-24", "Claude Sonnet 4.5", 1_250_000_000)]);
}

/// A page of OpenAI's; `results` of the day `start`.
fn page(start: u64, results: &str, more: bool) -> String {
    format!(r#"{{"data":[{{"start_time":{start},"results":[{results}]}}],"has_more":{more}}}"#)
}

#[test]
fn what_is_told_is_told_of_a_providers_day_and_a_kind() {
    let told = |export: &Export| -> Vec<(String, String, bool, bool)> {
        let kinds = |((provider, day), of): (&Place, &Billed)| {
            (provider.clone(), day.clone(), of.input.is_some(), of.amount.is_some())
        };
        export.told.iter().map(kinds).collect()
    };
    let place = |provider: &str, day: &str, tokens, money| (provider.to_owned(), day.to_owned(), tokens, money);
    let csv = "day,provider,model,input_tokens,amount_usd\n2026-11-24,openai,m,1,\n2026-11-25,anthropic,n,,1\n2026-11-26,openai,,,\n";
    assert_eq!(
        told(&read(csv).expect("an export")),
        [
            place("anthropic", "2026-11-25", false, true),
            place("openai", "2026-11-24", true, false),
            // Nothing was billed on it, of what is told of the others.
            place("openai", "2026-11-26", true, false),
        ]
    );
    // Usage of one and costs of the other, in one file.
    let usage = r#"{"object":"organization.usage.completions.result","input_tokens":1,"output_tokens":1,"model":"m"}"#;
    let costs =
        r#"{"data":[{"starting_at":"2024-11-01T00:00:00Z","results":[{"currency":"USD","amount":"1","model":"n"}]}]}"#;
    let export = read(&format!("{}\n{costs}", page(1_730_419_200, usage, false))).expect("an export");
    assert_eq!(
        told(&export),
        [place("anthropic", "2024-11-01", false, true), place("openai", "2024-11-01", true, false)]
    );
}

#[test]
fn a_report_has_all_its_pages_and_each_result_once() {
    let usage = |tokens: u64| {
        format!(
            r#"{{"object":"organization.usage.completions.result","input_tokens":{tokens},"output_tokens":1,"model":"m","project_id":null}}"#
        )
    };
    let cost = r#"{"object":"organization.costs.result","amount":{"value":1,"currency":"usd"},"line_item":"m, input"}"#;
    let (first, second) = (1_730_419_200, 1_730_505_600);
    let whole = [page(first, &usage(1), true), page(second, &usage(2), false), page(first, cost, false)];
    assert_eq!(read(&whole.join("\n")).expect("an export").lines.len(), 3);
    // The second page of the first report is missing, and the last page of the file is the end of another one.
    assert_eq!(read(&[&whole[0][..], &whole[2]].join("\n")), Err(ExportError::MorePages));
    assert_eq!(read(&whole[0]), Err(ExportError::MorePages));
    for twice in [
        vec![page(first, &usage(1), true), page(first, &usage(1), false)],
        // Exported again when more was billed.
        vec![page(first, &usage(1), false), page(first, &usage(7), false)],
        vec![page(first, &format!("{},{}", usage(1), usage(2)), false)],
    ] {
        let error = read(&twice.join("\n")).expect_err("it counts twice");
        assert_eq!(error.code(), "export_row", "{error}");
    }
    let other = usage(1).replace("null", "\"proj_a\"");
    assert_eq!(read(&page(first, &format!("{},{other}", usage(1)), false)).expect("an export").lines.len(), 2);
}

#[test]
fn a_plain_table_is_anybodys() {
    let csv = "day,provider,model,requests,input_tokens,cache_read_tokens,cache_write_tokens,output_tokens,amount_usd\n\
        2026-11-24,Mistral,mistral-large,2,100,0,,50,0.0000001\n";
    let export = read(csv).expect("an export");
    let line = &export.lines[0];
    assert_eq!((line.provider.as_str(), line.billed.cache_write), ("mistral", None));
    assert_eq!(line.billed.amount.map(Amount::nano), Some(100));
}

#[test]
fn what_is_not_known_is_refused_and_says_where() {
    for (text, code) in [
        ("", "export_unknown"),
        ("hello", "export_unknown"),
        ("day,model\n2026-11-24,x\n", "export_unknown"),
        ("{\"data\":1}", "export_unknown"),
        ("{\"data\":[{\"results\":[]}]}", "export_unknown"),
        ("day,provider,model,amount_usd\nyesterday,openai,m,1\n", "export_row"),
        ("day,provider,model,amount_usd\n2026-11-24,openai,m,a lot\n", "export_row"),
        ("day,provider,model,amount_usd\n2026-11-24,,m,1\n", "export_row"),
        ("day,provider,model,input_tokens\n2026-11-24,openai,m,1.5\n", "export_row"),
        // A row that is short or long, a column twice, a day that is read as seconds, one that is another day in UTC.
        ("day,provider,model,amount_usd\n2026-11-24,openai,m\n", "export_row"),
        ("day,provider,model,amount_usd\n2026-11-24,openai,m,1,2\n", "export_row"),
        ("day,provider,model,amount_usd,amount_usd\n2026-11-24,openai,m,1,2\n", "export_unknown"),
        ("day,provider,model,amount_usd\n20261124,openai,m,1\n", "export_row"),
        ("day,provider,model,amount_usd\n1730419200,openai,m,1\n", "export_row"),
        ("day,provider,model,amount_usd\n2026-11-24 23:00,openai,m,1\n", "export_row"),
        ("start_time,amount_value,amount_currency\n2026-11-24,1,usd\n", "export_row"),
        ("start_time,amount_value,amount_currency\n1730419200,1,eur\n", "export_currency"),
        (r#"{"data":[{"start_time":0,"results":[{"amount":{"value":1,"currency":"eur"}}]}]}"#, "export_currency"),
        (r#"{"data":[{"start_time":0,"results":[{"amount":{"value":"x","currency":"usd"}}]}]}"#, "export_row"),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.code(), code, "{text}: {error}");
    }
    let error =
        read("day,provider,model,amount_usd\n2026-11-24,openai,m,1\n2026-11-24,openai,m,x\n").expect_err("a row");
    assert!(error.to_string().starts_with("line 3"), "{error}");
}
