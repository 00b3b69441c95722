//! Failed answers: what each costs where the provider bills some of them.

use super::*;

const FILTERED: &str = r#"{"error":{"message":"The response was filtered","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true}}}}}"#;

fn failed(provider: Provider, status: u16, encoding: &'static str, body: &[u8]) -> Result<Failed, Refusal> {
    let (operation, path, asks) = match provider {
        Provider::Bedrock => (Operation::Converse, "/model/amazon.nova-pro-v1%3A0/converse", r#"{"messages":[]}"#),
        _ => (Operation::Chat, "", r#"{"model":"deployed","messages":[]}"#),
    };
    let book = format!(
        "{}\n[[model]]\nprovider='{}'\nnames=['deployed']\noperations=['chat']\nsource='x'\nmax_input=10\nmax_output=10\n\
         rates=[{{tier='standard',input='1',output='1'}}]\n",
        PriceBook::BUILT_IN,
        provider.name()
    );
    let meter = Meter::new(PriceBook::parse(&book).expect("a book"), []);
    let call = meter.read_at(provider, operation, path, &HeaderMap::new(), &Bytes::from_static(asks.as_bytes()))?;
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CONTENT_ENCODING, HeaderValue::from_static(encoding)),
    ]);
    let status = StatusCode::from_u16(status).expect("a status");
    let mut reader = call.reader(&call.edit(NanoUsd::MAX)?, status, &headers);
    for piece in body.chunks(9) {
        let _ = reader.feed(Bytes::copy_from_slice(piece));
    }
    let reading = reader.finish();
    assert_eq!(call.bill(&reading), None);
    Ok(call.failed(&reading).expect("it failed"))
}

#[test]
fn what_azure_worked_on_is_billed_whatever_its_status() -> Outcome {
    let azure = |status, body: &str| failed(Provider::Azure, status, "identity", body.as_bytes());
    let coded = |code: &str| format!(r#"{{"error":{{"message":"m","code":{code}}}}}"#);
    assert_eq!(azure(400, FILTERED)?, Failed::Billed("prompt_filtered"));
    let inner = r#"{"error":{"code":"BadRequest","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#;
    assert_eq!(azure(400, inner)?, Failed::Billed("prompt_filtered"));
    assert_eq!(azure(400, &coded(r#""context_length_exceeded""#))?, Failed::Billed("prompt_too_long"));
    for (status, reason) in
        [(408, "provider_timed_out"), (500, "provider_failed"), (502, "provider_failed"), (504, "provider_timed_out")]
    {
        assert_eq!(azure(status, "")?, Failed::Billed(reason), "{status}");
    }
    // A request that is wrong was not worked on; nor was one that nobody had the time or the right for.
    for code in [r#""unsupported_parameter""#, "null", r#""invalid_value""#] {
        assert_eq!(azure(400, &coded(code))?, Failed::Unbilled, "{code}");
    }
    for status in [401, 403, 404, 429, 503] {
        assert_eq!(azure(status, FILTERED)?, Failed::Unbilled, "{status}");
    }
    Ok(())
}

#[test]
fn an_error_that_could_not_be_read_may_be_a_billed_one() -> Outcome {
    for cut in 0..FILTERED.len() {
        let body = FILTERED.as_bytes().get(..cut).unwrap_or_default();
        assert_eq!(failed(Provider::Azure, 400, "identity", body)?, Failed::Billed("prompt_filtered"), "cut at {cut}");
    }
    let plain = br#"{"error":{"code":null}}"#;
    for (encoding, body) in [("x-new", &plain[..]), ("gzip", b"not gzip"), ("identity", b"<html>bad</html>")] {
        assert_eq!(failed(Provider::Azure, 400, encoding, body)?, Failed::Billed("prompt_filtered"), "{encoding}");
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(plain)?;
    assert_eq!(failed(Provider::Azure, 400, "gzip", &gzip.finish()?)?, Failed::Unbilled);
    Ok(())
}

#[test]
fn elsewhere_a_failure_without_usage_is_free_but_for_a_model_that_was_at_work() -> Outcome {
    for provider in [Provider::OpenAi, Provider::Groq, Provider::Mistral, Provider::Xai] {
        for status in [408, 499, 502, 504, 520, 524] {
            let edge = failed(provider, status, "identity", b"<html>")?;
            assert!(matches!(edge, Failed::Billed(_)), "{provider:?} {status}: the model may have gone on");
        }
        for status in [400, 401, 404, 429, 500, 503, 521, 522, 523, 525, 529] {
            assert_eq!(
                failed(provider, status, "identity", FILTERED.as_bytes())?,
                Failed::Unbilled,
                "{provider:?} {status}"
            );
        }
    }
    assert_eq!(failed(Provider::Xai, 403, "identity", b"{}")?, Failed::Billed("prompt_filtered"));
    for (status, want) in [
        (400, Failed::Unbilled),
        (403, Failed::Unbilled),
        (408, Failed::Billed("provider_timed_out")),
        (424, Failed::Billed("provider_failed")),
        (429, Failed::Unbilled),
        (500, Failed::Unbilled),
        (503, Failed::Unbilled),
    ] {
        assert_eq!(failed(Provider::Bedrock, status, "identity", br#"{"message":"m"}"#)?, want, "{status}");
    }
    Ok(())
}

#[test]
fn an_error_on_a_socket_is_read_as_one_of_its_own() -> Outcome {
    let book = PriceBook::parse(
        "version='1'\n[[model]]\nprovider='azure'\nnames=['own']\noperations=['responses']\nsource='x'\nmax_input=10\nmax_output=10\n\
         rates=[{tier='standard',input='1',output='1'}]\n",
    )?;
    let meter = Meter::new(book, []);
    let message = Bytes::from_static(br#"{"type":"response.create","model":"own","input":"x","max_output_tokens":9}"#);
    let call = meter.message(Provider::Azure, &Chain::default(), &message)?;
    for (code, want) in [("content_filter", Failed::Billed("prompt_filtered")), ("invalid_request", Failed::Unbilled)] {
        let mut reader = call.reader_of_messages();
        let error = format!(r#"{{"type":"error","status":400,"error":{{"code":"{code}","message":"m"}}}}"#);
        let _ = reader.feed(error.into());
        assert_eq!(call.failed(&reader.refused()), Some(want), "{code}");
    }
    let mut reader = call.reader_of_messages();
    let _ = reader.feed(Bytes::from_static(br#"{"type":"error","error":{"code":"content_filter"}}"#));
    assert_eq!(call.failed(&reader.finish()), None, "an error in the middle is no refusal");
    Ok(())
}
