//! Reads Anthropic messages.
//! Source: <https://platform.claude.com/docs/en/api/messages>.

use super::body::Walked;
use super::book::Tier;
use super::refuse;
use super::shape::{Caching, Raw, Searches, Shape, Tongue, parse, unbounded};
use crate::refusal::{Reason, Refusal};
use serde::Deserialize;

const INLINE: &str = "Send the content inline.";
const DEPTH: u8 = 8;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default, borrow)]
    model: Raw<'a>,
    #[serde(default, borrow)]
    stream: Raw<'a>,
    #[serde(default, borrow)]
    max_tokens: Raw<'a>,
    #[serde(default, borrow)]
    thinking: Raw<'a>,
    #[serde(default, borrow)]
    messages: Raw<'a>,
    #[serde(default, borrow)]
    system: Raw<'a>,
    #[serde(default, borrow)]
    tools: Raw<'a>,
    #[serde(default, borrow)]
    mcp_servers: Raw<'a>,
    #[serde(default, borrow)]
    container: Raw<'a>,
    #[serde(default, borrow)]
    fallbacks: Raw<'a>,
    #[serde(default, borrow)]
    fallback_model: Raw<'a>,
    #[serde(default, borrow)]
    context_management: Raw<'a>,
    #[serde(default, borrow)]
    service_tier: Raw<'a>,
    #[serde(default, borrow)]
    inference_geo: Raw<'a>,
    #[serde(default, borrow)]
    speed: Raw<'a>,
}

/// `POST /v1/messages`.
pub(crate) fn messages(text: &str, walked: Walked) -> Result<Shape, Refusal> {
    let body: Body<'_> = parse(text, "the body")?;
    forbidden(&body)?;
    let geo: Option<String> = body.inference_geo.get("inference_geo")?;
    let mut shape = Shape {
        tongue: Tongue::Messages,
        model: body.model.get("model")?.unwrap_or_default(),
        stream: body.stream.get("stream")?.unwrap_or(false),
        cap_key: "max_tokens",
        choices: 1,
        // Priority capacity is bought ahead; its calls count at list price.
        tiers: vec![Tier::Standard],
        caching: match (walked.cache_control, walked.long_cache) {
            (false, _) => Caching::Never,
            (true, false) => Caching::Short,
            (true, true) => Caching::Long,
        },
        // Without a wish the workspace's own setting decides.
        geo_us: geo.as_deref() != Some("global"),
        geo_us_asked: geo.as_deref() == Some("us"),
        fast: fast(body.speed)?,
        ..Shape::default()
    };
    shape.note_cap(body.max_tokens, text, "max_tokens")?;
    shape.thinking = thinking(body.thinking, text)?;
    shape.extra_passes = compactions(body.context_management)?;
    blocks(body.system, &mut shape, 0)?;
    for message in body.messages.get::<Vec<Block<'_>>>("messages")?.unwrap_or_default() {
        blocks(message.content, &mut shape, 0)?;
    }
    tools(body.tools, &mut shape)?;
    Ok(shape)
}

fn forbidden(body: &Body<'_>) -> Result<(), Refusal> {
    for (member, why) in [
        (body.mcp_servers, "`mcp_servers` adds input that is not in the request"),
        (body.container, "`container` runs code with a price of its own"),
        (body.fallbacks, "`fallbacks` lets another model answer"),
        (body.fallback_model, "`fallback_model` lets another model answer"),
    ] {
        if !member.is_nothing() {
            return Err(unbounded(why, "Leave it out of the request."));
        }
    }
    match body.service_tier.get::<String>("service_tier")?.as_deref() {
        None | Some("auto" | "standard_only" | "standard") => Ok(()),
        Some(_) => Err(refuse(
            Reason::PriceUnknown,
            "knows no price for this `service_tier`. Use auto or standard_only.".to_owned(),
        )),
    }
}

fn fast(speed: Raw<'_>) -> Result<bool, Refusal> {
    match speed.get::<String>("speed")?.as_deref() {
        None | Some("standard") => Ok(false),
        Some("fast") => Ok(true),
        Some(_) => {
            Err(refuse(Reason::PriceUnknown, "knows no price for this `speed`. Use standard or fast.".to_owned()))
        }
    }
}

#[derive(Deserialize)]
struct Thinking<'a> {
    #[serde(default, borrow)]
    budget_tokens: Raw<'a>,
}

fn thinking(raw: Raw<'_>, text: &str) -> Result<Option<(u64, std::ops::Range<usize>)>, Refusal> {
    let Some(thinking) = raw.get::<Thinking<'_>>("thinking")? else {
        return Ok(None);
    };
    let budget = thinking.budget_tokens.get::<u64>("thinking.budget_tokens")?;
    Ok(budget.zip(thinking.budget_tokens.span(text)))
}

#[derive(Deserialize)]
struct Management {
    #[serde(default)]
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
struct Edit {
    #[serde(default, rename = "type")]
    kind: String,
}

/// Clearing makes the input smaller; a compaction is one more pass over it.
fn compactions(raw: Raw<'_>) -> Result<u64, Refusal> {
    let edits = raw.get::<Management>("context_management")?.map(|management| management.edits).unwrap_or_default();
    let passes = edits.iter().filter(|edit| !edit.kind.starts_with("clear_")).count();
    match u64::try_from(passes) {
        Ok(passes) if passes <= 4 => Ok(passes),
        _ => Err(unbounded("`context_management` has too many edits", "Leave it out of the request.")),
    }
}

/// A message or a block of content.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, borrow)]
    content: Raw<'a>,
    #[serde(default, borrow)]
    source: Raw<'a>,
    #[serde(default, borrow)]
    file_id: Raw<'a>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, borrow)]
    data: Raw<'a>,
    #[serde(default, borrow)]
    content: Raw<'a>,
}

/// Content: a string, or blocks, which may hold blocks.
fn blocks(raw: Raw<'_>, shape: &mut Shape, depth: u8) -> Result<(), Refusal> {
    if !raw.is_array() {
        return Ok(());
    }
    if depth > DEPTH {
        return Err(unbounded("its content is nested too deep", "Send it flat."));
    }
    for block in raw.get::<Vec<Block<'_>>>("content")?.unwrap_or_default() {
        if block.kind.as_deref() == Some("container_upload") || !block.file_id.is_nothing() {
            return Err(unbounded("it has a file by id, whose size is not known", INLINE));
        }
        // A search result's `source` is a plain string.
        if block.source.text().is_some_and(|text| text.starts_with('{')) {
            source(&block, shape, depth)?;
        }
        blocks(block.content, shape, depth + 1)?;
    }
    Ok(())
}

fn source(block: &Block<'_>, shape: &mut Shape, depth: u8) -> Result<(), Refusal> {
    let Some(source) = block.source.get::<Source<'_>>("source")? else {
        return Ok(());
    };
    match (source.kind.as_deref(), block.kind.as_deref()) {
        (Some("base64"), Some("image")) => shape.note_image(source.data.text().map_or(0, str::len)),
        (Some("base64"), _) => shape.whole_context = true,
        (Some("text"), _) => {}
        (Some("content"), _) => blocks(source.content, shape, depth + 1)?,
        _ => {
            return Err(unbounded("it has an image or document by URL or file id, whose size is not known", INLINE));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Tool<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, borrow)]
    max_uses: Raw<'a>,
}

/// Tools that the client runs; the provider only describes them to the model.
const CLIENT: [&str; 4] = ["bash_", "text_editor_", "computer_", "memory_"];

fn tools(raw: Raw<'_>, shape: &mut Shape) -> Result<(), Refusal> {
    for tool in raw.get::<Vec<Tool<'_>>>("tools")?.unwrap_or_default() {
        match tool.kind.as_deref() {
            None | Some("custom") => {}
            Some(kind) if CLIENT.iter().any(|prefix| kind.starts_with(prefix)) => shape.typed_tools += 1,
            // Later versions filter results with code of their own, in passes that nothing counts.
            Some("web_search_20250305") => {
                let Some(uses) = tool.max_uses.get::<u64>("max_uses")? else {
                    return Err(unbounded("the web search tool has no `max_uses`", "Give the tool a `max_uses`."));
                };
                shape.typed_tools += 1;
                let before = if let Searches::Fixed(before) = shape.searches { before } else { 0 };
                shape.searches = Searches::Fixed(before.saturating_add(uses));
            }
            Some(kind) => {
                let kind = super::shown(kind, 48);
                return Err(unbounded(
                    &format!("the hosted tool {kind} has no price here"),
                    "Leave the tool out of the request, or turn it off in the agent.",
                ));
            }
        }
    }
    Ok(())
}
