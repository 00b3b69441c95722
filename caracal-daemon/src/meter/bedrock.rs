//! Reads AWS Bedrock's converse and invoke. The model stands in the path.
//! Source: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html> and `_InvokeModel`.
//!
//! Bodies are signed as a rule (SigV4), and are then never edited: such a call is held at its full bound or refused.

use super::body::Walked;
use super::book::Tier;
use super::refuse;
use super::shape::{Caching, CapHome, Raw, Shape, Tongue, home, parse, unbounded};
use super::{Operation, anthropic, openai};
use crate::refusal::{Reason, Refusal};
use http::HeaderMap;
use serde::Deserialize;
use std::collections::BTreeMap;

const INLINE: &str = "Send the content inline.";
const DEPTH: u8 = 4;

/// Heads that change the price of a call, and are not priced.
const UNPRICED: [(&str, &str); 2] = [
    ("x-amzn-bedrock-guardrailidentifier", "a guardrail is billed by itself"),
    ("x-amzn-bedrock-performanceconfig-latency", "latency-optimized inference has a price of its own"),
];

/// The model of a path's id: a name, or a profile's or model's ARN.
pub(crate) fn model(id: &str) -> &str {
    if !id.starts_with("arn:") {
        return id;
    }
    id.rsplit_once(":inference-profile/").or_else(|| id.rsplit_once("::foundation-model/")).map_or(id, |(_, name)| name)
}

/// Names the service tier of an invoke.
const TIER: &str = "x-amzn-bedrock-service-tier";

/// Refuses heads that change the price of a call and are not priced.
pub(crate) fn heads(operation: Operation, headers: &HeaderMap) -> Result<(), Refusal> {
    if operation != Operation::Invoke && headers.contains_key(TIER) {
        return Err(unbounded("a service tier in a head is priced for invoke alone", "Name it in the body."));
    }
    for (name, why) in UNPRICED {
        let standard = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"standard");
        // Each of them: which one counts of two is not known.
        if !headers.get_all(name).iter().all(standard) {
            return Err(unbounded(why, "Leave it out of the request."));
        }
    }
    Ok(())
}

fn tier(name: Option<&str>) -> Result<Tier, Refusal> {
    match name {
        None | Some("default") => Ok(Tier::Standard),
        Some("flex") => Ok(Tier::Flex),
        Some("priority") => Ok(Tier::Priority),
        Some(_) => Err(refuse(
            Reason::PriceUnknown,
            "knows no price for this service tier. Use default, flex or priority.".to_owned(),
        )),
    }
}

/// `POST /model/MODEL/invoke` and `invoke-with-response-stream`: the body is the model's own.
pub(crate) fn invoke(
    text: &str,
    walked: Walked,
    model: &str,
    headers: &HeaderMap,
    stream: bool,
) -> Result<Shape, Refusal> {
    let mut named = headers.get_all(TIER).iter().map(|value| value.to_str().unwrap_or("?"));
    let tiers = vec![tier(named.next())?];
    if named.next().is_some() {
        return Err(super::refuse_agent(
            Reason::AmbiguousRequest,
            "cannot price a call with two service tiers.".to_owned(),
        ));
    }
    let shape = if model.contains("anthropic.") {
        anthropic::messages(text, walked)?
    } else if model.contains("openai.") {
        openai::chat(text, walked, super::Provider::OpenAi.habits())?
    } else {
        other(text)?
    };
    Ok(Shape { model: model.to_owned(), stream, tiers, ask_usage: Default::default(), ..shape })
}

#[derive(Deserialize)]
struct Other<'a> {
    #[serde(default, borrow)]
    max_tokens: Raw<'a>,
    #[serde(default, borrow)]
    max_gen_len: Raw<'a>,
    #[serde(default, borrow)]
    num_generations: Raw<'a>,
    #[serde(default, borrow)]
    n: Raw<'a>,
    #[serde(default, borrow, rename = "inferenceConfig")]
    inference: Raw<'a>,
    #[serde(default, borrow, rename = "textGenerationConfig")]
    generation: Raw<'a>,
    #[serde(default, borrow, rename = "toolConfig")]
    tools: Raw<'a>,
}

/// A model whose words are not read here: a cap that stands in the request may only raise what is held, never lower it, and
/// the counts come from the answer's head or last chunk.
fn other(text: &str) -> Result<Shape, Refusal> {
    let body: Other<'_> = parse(text, "the body")?;
    // Nova takes the same tools here as in a conversation, and bills some by themselves.
    tools(body.tools)?;
    let inner = [body.inference, body.generation];
    let mut caps = vec![body.max_tokens.get::<u64>("max_tokens")?, body.max_gen_len.get::<u64>("max_gen_len")?];
    for object in inner {
        let members = object.get::<BTreeMap<String, Raw<'_>>>("inferenceConfig")?.unwrap_or_default();
        for name in ["maxTokens", "max_new_tokens", "maxTokenCount"] {
            caps.push(members.get(name).copied().unwrap_or_default().get::<u64>(name)?);
        }
    }
    let choices = body.num_generations.get::<u64>("num_generations")?.unwrap_or(1);
    let choices = choices.max(body.n.get::<u64>("n")?.unwrap_or(1)).max(1);
    if choices > 128 {
        return Err(unbounded("it asks for more than 128 answers", "Ask for fewer."));
    }
    Ok(Shape {
        tongue: Tongue::Counts,
        // In which words it would take a lower cap is not known, so none is written.
        signed: true,
        cap_key: "max_tokens",
        least_output: caps.into_iter().flatten().max().unwrap_or(0),
        choices,
        // What kind of content a body has is not known here, but all of it lies within the model's context.
        whole_context: true,
        ..Shape::default()
    })
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default, borrow)]
    messages: Raw<'a>,
    #[serde(default, borrow)]
    system: Raw<'a>,
    #[serde(default, borrow, rename = "inferenceConfig")]
    inference: Raw<'a>,
    #[serde(default, borrow, rename = "toolConfig")]
    tools: Raw<'a>,
    #[serde(default, borrow, rename = "guardrailConfig")]
    guardrail: Raw<'a>,
    #[serde(default, borrow, rename = "promptVariables")]
    prompt: Raw<'a>,
    #[serde(default, borrow, rename = "performanceConfig")]
    performance: Raw<'a>,
    #[serde(default, borrow, rename = "serviceTier")]
    tier: Raw<'a>,
    #[serde(default, borrow, rename = "additionalModelRequestFields")]
    more: Raw<'a>,
}

/// Members of `additionalModelRequestFields` that change neither what is read nor how much is written.
const HARMLESS: [&str; 9] = [
    "thinking",
    "reasoning_config",
    "reasoningConfig",
    "reasoning_effort",
    "top_k",
    "topK",
    "anthropic_beta",
    "output_config",
    "stop",
];

/// `POST /model/MODEL/converse` and `converse-stream`.
pub(crate) fn converse(text: &str, walked: Walked, model: &str, stream: bool) -> Result<Shape, Refusal> {
    let body: Body<'_> = parse(text, "the body")?;
    if !body.guardrail.is_nothing() {
        return Err(unbounded("`guardrailConfig` is billed by itself", "Leave it out of the request."));
    }
    if !body.prompt.is_nothing() {
        return Err(unbounded("`promptVariables` belong to a prompt that is not in the request", INLINE));
    }
    let latency = body.performance.get::<Named>("performanceConfig")?.and_then(|named| named.latency);
    if latency.is_some_and(|latency| latency != "standard") {
        return Err(unbounded("latency-optimized inference has a price of its own", "Use standard latency."));
    }
    for name in body.more.get::<BTreeMap<String, Raw<'_>>>("additionalModelRequestFields")?.unwrap_or_default().keys() {
        if !HARMLESS.contains(&name.as_str()) {
            let name = super::shown(name, 48);
            return Err(unbounded(
                &format!("what {name} in `additionalModelRequestFields` costs is not known"),
                "Leave it out of the request.",
            ));
        }
    }
    let named = body.tier.get::<Named>("serviceTier")?.and_then(|named| named.kind);
    let mut shape = Shape {
        tongue: Tongue::Converse,
        model: model.to_owned(),
        stream,
        cap_key: "maxTokens",
        cap_home: match body.inference.text() {
            Some(_) => home(body.inference, text),
            None => body.inference.span(text).map_or(CapHome::Wrapped("inferenceConfig"), CapHome::Instead),
        },
        choices: 1,
        tiers: vec![tier(named.as_deref())?],
        caching: match (walked.cache_point, walked.long_cache) {
            (false, _) => Caching::Never,
            (true, false) => Caching::Short,
            (true, true) => Caching::Long,
        },
        ..Shape::default()
    };
    if let Some(inference) = body.inference.get::<BTreeMap<String, Raw<'_>>>("inferenceConfig")? {
        shape.note_cap(inference.get("maxTokens").copied().unwrap_or_default(), text, "maxTokens")?;
    }
    blocks(body.system, &mut shape, 0)?;
    for message in body.messages.get::<Vec<Message<'_>>>("messages")?.unwrap_or_default() {
        blocks(message.content, &mut shape, 0)?;
    }
    tools(body.tools)?;
    Ok(shape)
}

#[derive(Deserialize)]
struct Named {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    latency: Option<String>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default, borrow)]
    content: Raw<'a>,
}

#[derive(Deserialize)]
struct Media<'a> {
    #[serde(default, borrow)]
    source: Raw<'a>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(default, borrow)]
    bytes: Raw<'a>,
    #[serde(default, borrow)]
    text: Raw<'a>,
    #[serde(default, borrow)]
    content: Raw<'a>,
}

/// A list of content blocks, each an object with one member.
fn blocks(raw: Raw<'_>, shape: &mut Shape, depth: u8) -> Result<(), Refusal> {
    if raw.text().is_none() {
        return Ok(());
    }
    if depth > DEPTH {
        return Err(unbounded("its content is nested too deep", "Send it flat."));
    }
    for block in raw.get::<Vec<BTreeMap<String, Raw<'_>>>>("content")?.unwrap_or_default() {
        for (kind, value) in block {
            match kind.as_str() {
                "text" | "toolUse" | "cachePoint" | "reasoningContent" | "citationsContent" | "json"
                | "searchResult" => {}
                _ if value.text().is_none() => {}
                "image" | "document" => media(value, &kind, shape, depth)?,
                "toolResult" => {
                    let content = value.get::<Message<'_>>("toolResult")?.map(|result| result.content);
                    blocks(content.unwrap_or_default(), shape, depth + 1)?;
                }
                "guardContent" => return Err(unbounded("`guardContent` is billed by itself", "Send it as text.")),
                _ => return Err(unbounded("audio, video and other media are not priced", "Send text or images.")),
            }
        }
    }
    Ok(())
}

fn media(value: Raw<'_>, kind: &str, shape: &mut Shape, depth: u8) -> Result<(), Refusal> {
    let source = value.get::<Media<'_>>("source")?.map(|media| media.source).unwrap_or_default();
    let Some(source) = source.get::<Source<'_>>("source")? else { return Ok(()) };
    if source.text.text().is_some() {
        return Ok(());
    }
    if source.content.text().is_some() {
        return blocks(source.content, shape, depth + 1);
    }
    match source.bytes.text() {
        Some(bytes) if kind == "image" => shape.note_image(bytes.len()),
        Some(_) => shape.whole_context = true,
        None => return Err(unbounded("it has an image or document in S3, whose size is not known", INLINE)),
    }
    Ok(())
}

fn tools(raw: Raw<'_>) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Tools<'a> {
        #[serde(default, borrow)]
        tools: Raw<'a>,
    }
    let list = raw.get::<Tools<'_>>("toolConfig")?.map(|config| config.tools).unwrap_or_default();
    for tool in list.get::<Vec<BTreeMap<String, Raw<'_>>>>("tools")?.unwrap_or_default() {
        let other = tool
            .iter()
            .find(|(kind, value)| value.text().is_some() && !matches!(kind.as_str(), "toolSpec" | "cachePoint"));
        if let Some((kind, _)) = other {
            return Err(super::hosted::hosted(Some(kind)));
        }
    }
    Ok(())
}
