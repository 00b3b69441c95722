//! `caracald prices bill`: what recorded exchanges are held at and charged, by the price book in force. Takes lines of JSON;
//! gives a line for each. The same code as on the data path, and no connection. Without an answer, a line says what is sent.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::meter::{Call, Failed, Meter, Surface};
use crate::money::NanoUsd;

/// Bytes of an answer that are read at once: what a reader sees does not depend on it.
const PIECE: usize = 16 << 10;

#[derive(Args, Debug)]
pub(super) struct BillArgs {
    /// The lines; standard input when none is named.
    file: Option<PathBuf>,
}

/// One exchange.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    /// The host that was asked.
    host: String,
    /// The path, without a query.
    path: String,
    /// Headers of the request.
    #[serde(default)]
    headers: Map<String, Value>,
    /// Its body.
    request: String,
    /// How much of what it may cost is granted, in thousandths of the way from the least to the most. Default: the most.
    granted: Option<u16>,
    /// The answer's status.
    #[serde(default = "ok")]
    status: u16,
    /// Headers of the answer.
    #[serde(default)]
    answer_headers: Map<String, Value>,
    /// Its body, base64.
    answer: Option<String>,
}

fn ok() -> u16 {
    200
}

/// Prices each line.
pub(super) fn run(args: &BillArgs, meter: &Meter) -> anyhow::Result<ExitCode> {
    let lines: Box<dyn BufRead> = match &args.file {
        None => Box::new(std::io::stdin().lock()),
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
            Box::new(BufReader::new(file))
        }
    };
    let mut out = std::io::BufWriter::new(crate::cli::output::Output);
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        let exchange: Exchange =
            serde_json::from_str(&line).with_context(|| format!("line {} is no exchange", number + 1))?;
        let billed = bill(&exchange, meter).with_context(|| format!("line {}", number + 1))?;
        writeln!(out, "{billed}")?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn bill(exchange: &Exchange, meter: &Meter) -> anyhow::Result<Value> {
    let headers = headers(&exchange.headers)?;
    let surface = meter.surface(&exchange.host, &Method::POST, &exchange.path, &headers);
    let Surface::Paid(provider, operation) = surface else {
        anyhow::bail!("POST {}{} is no paid call with a metered price", exchange.host, exchange.path);
    };
    let body = Bytes::copy_from_slice(exchange.request.as_bytes());
    let read = meter.read_at(provider, operation, &exchange.path, &headers, &body);
    let call = match read.and_then(|call| call.at(&exchange.host)) {
        Ok(call) => call,
        Err(refusal) => return Ok(json!({ "refused": refusal.reason.code(), "message": refusal.sentence })),
    };
    let edited = call.edit(granted(exchange, &call)).map_err(|refusal| anyhow::anyhow!(refusal.sentence))?;
    let Some(answer) = &exchange.answer else {
        let sent = edited.body.as_ref().unwrap_or(&body);
        return Ok(json!({
            "hold_nano_usd": edited.hold,
            "edits": edited.edits,
            "sent": std::str::from_utf8(sent).context("what is sent is no text")?,
        }));
    };
    let status = StatusCode::from_u16(exchange.status).context("the answer's status")?;
    let mut reader = call.reader(&edited, status, &self::headers(&exchange.answer_headers)?);
    let answer = base64::engine::general_purpose::STANDARD.decode(answer).context("the answer's base64")?;
    for piece in answer.chunks(PIECE) {
        let _ = reader.feed(Bytes::copy_from_slice(piece));
    }
    let _ = reader.flush();
    let reading = reader.finish();
    Ok(json!({
        "model": &*call.model,
        "price_book": &*call.price_book,
        "hold_nano_usd": edited.hold,
        "bill_nano_usd": call.bill(&reading),
        "refused_by_provider": call.failed(&reading) == Some(Failed::Unbilled),
        "usage": reading.usage,
    }))
}

/// What is granted for the call; everything is at least what its lowest caps cost.
fn granted(exchange: &Exchange, call: &Call) -> NanoUsd {
    let Some(part) = exchange.granted else { return NanoUsd::MAX };
    let (least, most) = (call.least(0).0, call.most().0);
    let more = u128::from(most.saturating_sub(least)) * u128::from(part) / 1_000;
    NanoUsd(least.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)))
}

fn headers(map: &Map<String, Value>) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(map.len());
    for (name, value) in map {
        let value = value.as_str().with_context(|| format!("header {name} is no text"))?;
        headers.append(HeaderName::try_from(name.as_str())?, HeaderValue::try_from(value)?);
    }
    Ok(headers)
}
