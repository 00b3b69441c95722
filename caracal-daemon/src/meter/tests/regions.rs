//! Bedrock's names of one model: a bare one is served where the call's host says, a prefixed one in a geography, or anywhere.

use super::providers::with;
use super::*;

const REQUEST: &str = r#"{"messages":[],"inferenceConfig":{"maxTokens":9}}"#;
const USAGE: &str = r#"{"usage":{"inputTokens":100,"outputTokens":20,"totalTokens":470,"cacheReadInputTokens":50,"cacheWriteInputTokens":300,"cacheDetails":[{"ttl":"1h","inputTokens":200},{"ttl":"5m","inputTokens":100}]}}"#;

fn billed(id: &str) -> Result<Option<NanoUsd>, Refusal> {
    let path = format!("/model/{}/converse", id.replace(':', "%3A").replace('/', "%2F"));
    let call = with(Provider::Bedrock, Operation::Converse, &path, &[], REQUEST)?;
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let mut reader = call.reader(&call.edit(NanoUsd::MAX)?, StatusCode::OK, &headers);
    let _ = reader.feed(Bytes::from_static(USAGE.as_bytes()));
    Ok(call.bill(&reader.finish()))
}

/// Anthropic on its models from the 4.5 ones on: an endpoint of a region or a geography costs 10 % more than the global one.
#[test]
fn a_bare_name_costs_what_an_endpoint_of_a_region_does() -> Outcome {
    // Anywhere: 100 x 1000 + 50 x 100 + 100 x 1250 + 200 x 2000 + 20 x 5000.
    const ANYWHERE: u64 = 730_000;
    let haiku = |prefix: &str| billed(&format!("{prefix}anthropic.claude-haiku-4-5-20251001-v1:0"));
    assert_eq!(haiku("global.")?, Some(NanoUsd(ANYWHERE)));
    for prefix in ["", "us.", "apac.", "arn:aws:bedrock:eu-west-1::foundation-model/"] {
        assert_eq!(haiku(prefix)?, Some(NanoUsd(ANYWHERE + ANYWHERE / 10)), "{prefix}");
    }
    // Those before cost the same everywhere.
    assert_eq!(
        billed("anthropic.claude-opus-4-1-20250805-v1:0")?,
        billed("us.anthropic.claude-opus-4-1-20250805-v1:0")?
    );
    Ok(())
}

/// A book has one price for a bare name, and the regions of the US are those whose price it is.
#[test]
fn a_bare_name_of_a_nova_has_no_price_where_another_one_holds() -> Outcome {
    let call =
        |name: &str| with(Provider::Bedrock, Operation::Converse, &format!("/model/{name}/converse"), &[], REQUEST);
    for place in [
        "bedrock-runtime.us-east-1.amazonaws.com",
        "bedrock-runtime-fips.us-west-2.amazonaws.com",
        "bedrock-runtime.us-east-2.api.aws",
        "vpce-0a-b.bedrock-runtime.us-east-1.vpce.amazonaws.com",
    ] {
        assert!(call("amazon.nova-pro-v1%3A0")?.at(place).is_ok(), "{place}");
    }
    for place in ["bedrock-runtime.eu-west-2.amazonaws.com", "bedrock-runtime.ap-northeast-1.amazonaws.com"] {
        for name in ["nova-pro-v1", "nova-lite-v1", "nova-micro-v1", "nova-premier-v1", "nova-2-lite-v1"] {
            let refused = call(&format!("amazon.{name}%3A0"))?.at(place).err().ok_or(name)?;
            assert_eq!(refused.reason, Reason::PriceUnknown, "{name} at {place}");
        }
        assert!(call("eu.amazon.nova-pro-v1%3A0")?.at(place).is_ok(), "a profile says the geography itself");
        assert!(call("anthropic.claude-haiku-4-5-20251001-v1%3A0")?.at(place).is_ok());
    }
    Ok(())
}

#[test]
fn no_name_of_a_claude_is_cheaper_than_the_place_that_it_may_be_served_in() -> Outcome {
    let (book, listing) = (PriceBook::built_in()?, Listing::parse(PriceBook::BUILT_IN)?);
    let names: Vec<&str> = listing
        .models
        .iter()
        .filter(|model| model.provider == "bedrock")
        .flat_map(|model| &model.names)
        .map(String::as_str)
        .filter(|name| name.contains("anthropic."))
        .collect();
    let mut compared = 0;
    for (bare, placed) in names.iter().flat_map(|bare| names.iter().map(move |placed| (*bare, *placed))) {
        if !bare.starts_with("anthropic.") || !placed.strip_suffix(bare).is_some_and(|place| place.ends_with('.')) {
            continue;
        }
        let rates = |name: &str, input| {
            book.model(Provider::Bedrock, name).and_then(|model| model.rates(Tier::Standard, input))
        };
        for input in [1, 150_000, 900_000] {
            let (own, there) = (rates(bare, input).ok_or("no price")?, rates(placed, input).ok_or("no price")?);
            for (own, there) in [
                (own.input, there.input),
                (own.cache_read, there.cache_read),
                (own.cache_write, there.cache_write),
                (own.cache_write_long, there.cache_write_long),
                (own.output, there.output),
            ] {
                assert!(!there.is_dearer(own), "{placed} costs more than {bare} with {input} input tokens");
            }
        }
        compared += 1;
    }
    assert!(compared > 50, "only {compared} pairs");
    Ok(())
}
