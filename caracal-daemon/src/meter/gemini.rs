//! Reads Google Gemini's generateContent, streamGenerateContent and embedContent.
//! Source: <https://ai.google.dev/api/generate-content>.
//!
//! Google reads each name in two spellings, `maxOutputTokens` and `max_output_tokens`; both at once have two readings and
//! are refused. The model stands in the path.

use super::body::Walked;
use super::book::Tier;
use super::refuse;
use super::shape::{Caching, CapHome, Raw, Searches, Shape, Tongue, home, parse, unbounded};
use crate::refusal::{Reason, Refusal};
use http::HeaderMap;
use serde::Deserialize;
use std::collections::BTreeMap;

const INLINE: &str = "Send the content inline.";
/// Parameters of the query that change nothing of what an answer says. Others do: `fields` leaves the usage out of it, and
/// `$httpHeaders` sets heads (<https://cloud.google.com/apis/docs/system-parameters>).
const QUERY: [&str; 6] = ["key", "alt", "$alt", "prettyPrint", "$prettyPrint", "quotaUser"];

/// Refuses what lets an agent choose which part of an answer is told.
pub(crate) fn heads(query: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut names = query.split('&').filter(|part| !part.is_empty());
    let other = names.any(|part| !QUERY.contains(&part.split('=').next().unwrap_or(part)));
    if other || headers.contains_key("x-goog-fieldmask") {
        return Err(unbounded(
            "a parameter of its query, or a field mask, may leave out of the answer what it costs",
            "Leave it out of the request.",
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default, borrow)]
    contents: Raw<'a>,
    #[serde(default, borrow, rename = "systemInstruction", alias = "system_instruction")]
    system: Raw<'a>,
    #[serde(default, borrow)]
    tools: Raw<'a>,
    #[serde(default, borrow, rename = "generationConfig", alias = "generation_config")]
    config: Raw<'a>,
    #[serde(default, borrow, rename = "cachedContent", alias = "cached_content")]
    cached: Raw<'a>,
    #[serde(default, borrow, rename = "serviceTier", alias = "service_tier")]
    tier: Raw<'a>,
    #[serde(default, borrow)]
    model: Raw<'a>,
}

#[derive(Deserialize)]
struct Config<'a> {
    #[serde(default, borrow, rename = "maxOutputTokens", alias = "max_output_tokens")]
    cap: Raw<'a>,
    #[serde(default, borrow, rename = "candidateCount", alias = "candidate_count")]
    candidates: Raw<'a>,
    #[serde(default, borrow, rename = "responseModalities", alias = "response_modalities")]
    modalities: Raw<'a>,
    #[serde(default, borrow, rename = "speechConfig", alias = "speech_config")]
    speech: Raw<'a>,
    #[serde(default, borrow, rename = "imageConfig", alias = "image_config")]
    image: Raw<'a>,
}

/// `POST .../models/MODEL:generateContent` and `:streamGenerateContent`.
pub(crate) fn generate(text: &str, _: Walked, model: &str, stream: bool) -> Result<Shape, Refusal> {
    let body: Body<'_> = parse(text, "the body")?;
    if !body.cached.is_nothing() {
        return Err(unbounded("`cachedContent` adds input that is not in the request", INLINE));
    }
    same_model(body.model, model)?;
    let mut shape = Shape {
        tongue: Tongue::Gemini,
        model: model.to_owned(),
        stream,
        cap_key: "maxOutputTokens",
        cap_home: CapHome::Wrapped("generationConfig"),
        choices: 1,
        tiers: tiers(body.tier)?,
        // Google caches by itself and bills reads less; there is no fee for a write.
        caching: Caching::Never,
        ..Shape::default()
    };
    config(body.config, text, &mut shape)?;
    content(body.system, &mut shape)?;
    if body.contents.is_array() {
        for one in body.contents.get::<Vec<Raw<'_>>>("contents")?.unwrap_or_default() {
            content(one, &mut shape)?;
        }
    } else {
        content(body.contents, &mut shape)?;
    }
    tools(body.tools, &mut shape)?;
    Ok(shape)
}

/// `POST .../models/MODEL:embedContent` and `:batchEmbedContents`: text alone, whose bytes bound its tokens.
pub(crate) fn embed(text: &str, model: &str) -> Result<Shape, Refusal> {
    #[derive(Deserialize)]
    struct Embed<'a> {
        #[serde(default, borrow)]
        content: Raw<'a>,
        #[serde(default, borrow)]
        requests: Raw<'a>,
        #[serde(default, borrow)]
        model: Raw<'a>,
    }
    let body: Embed<'_> = parse(text, "the body")?;
    same_model(body.model, model)?;
    let mut shape = Shape {
        tongue: Tongue::Gemini,
        model: model.to_owned(),
        choices: 1,
        tiers: vec![Tier::Standard],
        ..Shape::default()
    };
    content(body.content, &mut shape)?;
    for request in body.requests.get::<Vec<Embed<'_>>>("requests")?.unwrap_or_default() {
        same_model(request.model, model)?;
        content(request.content, &mut shape)?;
    }
    if shape.images > 0 || shape.whole_context {
        return Err(unbounded("only text has a price for embeddings here", "Send text."));
    }
    Ok(shape)
}

/// The body may name the model too; it must be the path's.
fn same_model(raw: Raw<'_>, model: &str) -> Result<(), Refusal> {
    let named: Option<String> = raw.get("model")?;
    match named.as_deref().map(|name| name.strip_prefix("models/").unwrap_or(name)) {
        Some(other) if !other.is_empty() && other != model => Err(super::refuse_agent(
            Reason::AmbiguousRequest,
            "cannot price a call whose path and body name two models.".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn tiers(raw: Raw<'_>) -> Result<Vec<Tier>, Refusal> {
    let named: Option<String> = raw.get("serviceTier")?;
    match named.map(|name| name.to_ascii_lowercase()).as_deref() {
        None | Some("standard" | "service_tier_standard" | "unspecified" | "service_tier_unspecified") => {
            Ok(vec![Tier::Standard])
        }
        Some("flex" | "service_tier_flex") => Ok(vec![Tier::Flex]),
        Some("priority" | "service_tier_priority") => Ok(vec![Tier::Priority]),
        Some(_) => Err(refuse(
            Reason::PriceUnknown,
            "knows no price for this `serviceTier`. Use standard, flex or priority.".to_owned(),
        )),
    }
}

fn config(raw: Raw<'_>, text: &str, shape: &mut Shape) -> Result<(), Refusal> {
    let Some(config) = raw.get::<Config<'_>>("generationConfig")? else {
        if let Some(null) = raw.span(text) {
            shape.cap_home = CapHome::Instead(null);
        }
        return Ok(());
    };
    shape.cap_home = home(raw, text);
    shape.note_cap(config.cap, text, "maxOutputTokens")?;
    shape.choices = config.candidates.get("candidateCount")?.unwrap_or(1).max(1);
    if shape.choices > 128 {
        return Err(unbounded("`candidateCount` is above 128", "Ask for fewer candidates."));
    }
    let modalities: Vec<String> = config.modalities.get("responseModalities")?.unwrap_or_default();
    let other = modalities.iter().any(|modality| !modality.eq_ignore_ascii_case("text"));
    if other || !config.speech.is_nothing() || !config.image.is_nothing() {
        return Err(unbounded("it asks for output that is not text", "Ask for text."));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(default, borrow)]
    parts: Raw<'a>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(default, borrow, rename = "inlineData", alias = "inline_data")]
    inline: Raw<'a>,
    #[serde(default, borrow, rename = "fileData", alias = "file_data")]
    file: Raw<'a>,
    #[serde(default, borrow, rename = "functionResponse", alias = "function_response")]
    response: Raw<'a>,
}

#[derive(Deserialize)]
struct Blob<'a> {
    #[serde(default, borrow, rename = "mimeType", alias = "mime_type")]
    kind: Raw<'a>,
    #[serde(default, borrow)]
    data: Raw<'a>,
}

/// Content: its parts are a list, or one.
fn content(raw: Raw<'_>, shape: &mut Shape) -> Result<(), Refusal> {
    let Some(content) = raw.get::<Content<'_>>("content")? else { return Ok(()) };
    parts(content.parts, shape, 0)
}

fn parts(raw: Raw<'_>, shape: &mut Shape, depth: u8) -> Result<(), Refusal> {
    if depth > 1 {
        return Err(unbounded("its parts are nested too deep", "Send them flat."));
    }
    let list = if raw.is_array() {
        raw.get::<Vec<Part<'_>>>("parts")?.unwrap_or_default()
    } else {
        raw.get::<Part<'_>>("parts")?.into_iter().collect()
    };
    for part in list {
        if !part.file.is_nothing() {
            return Err(unbounded("it has a file by URI, whose size is not known", INLINE));
        }
        if let Some(blob) = part.inline.get::<Blob<'_>>("inlineData")? {
            inline(&blob, shape)?;
        }
        // The answer of a function may carry media of its own.
        if let Some(response) = part.response.get::<Content<'_>>("functionResponse")? {
            parts(response.parts, shape, depth + 1)?;
        }
    }
    Ok(())
}

fn inline(blob: &Blob<'_>, shape: &mut Shape) -> Result<(), Refusal> {
    let kind: String = blob.kind.get("mimeType")?.unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    match kind.split('/').next().unwrap_or_default() {
        // Base64 is longer than the text in it.
        "text" => {}
        "image" => shape.note_image(blob.data.text().map_or(0, str::len)),
        "application" if kind == "application/pdf" => shape.whole_context = true,
        "application" if kind == "application/json" => {}
        _ => return Err(unbounded("audio, video and other media are not priced", "Send text, images or a PDF.")),
    }
    Ok(())
}

fn tools(raw: Raw<'_>, shape: &mut Shape) -> Result<(), Refusal> {
    let list = if raw.is_array() {
        raw.get::<Vec<Raw<'_>>>("tools")?.unwrap_or_default()
    } else {
        raw.text().map(|_| raw).into_iter().collect()
    };
    for one in list {
        for (name, tool) in one.get::<BTreeMap<String, Raw<'_>>>("tools")?.unwrap_or_default() {
            match name.as_str() {
                "functionDeclarations" | "function_declarations" => {}
                _ if tool.text().is_none() => {}
                // A grounded prompt is billed once, however many queries it makes. An empty object turns the tool on.
                "googleSearch" | "google_search" | "googleSearchRetrieval" | "google_search_retrieval" => {
                    shape.typed_tools += 1;
                    shape.searches = Searches::Fixed(1);
                }
                other => return Err(super::hosted::hosted(Some(other))),
            }
        }
    }
    Ok(())
}
