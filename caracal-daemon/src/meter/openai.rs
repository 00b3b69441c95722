//! Reads OpenAI chat completions, responses and embeddings.
//! Source: <https://platform.openai.com/docs/api-reference>.

use super::body::Walked;
use super::book::Tier;
use super::hosted::{Tool, hosted, tools};
use super::provider::Habits;
use super::shape::{AskUsage, Caching, Raw, Searches, Shape, Tongue, parse, unbounded};
use super::{refuse, refuse_agent};
use crate::refusal::{Reason, Refusal};
use serde::Deserialize;

const INLINE: &str = "Send the content inline.";
const HISTORY: &str = "Send the whole input with each call and store nothing on the provider's side.";

/// All members that matter to the bill of one of the three calls.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(default, borrow)]
    model: Raw<'a>,
    #[serde(default, borrow)]
    stream: Raw<'a>,
    #[serde(default, borrow)]
    stream_options: Raw<'a>,
    #[serde(default, borrow)]
    max_tokens: Raw<'a>,
    #[serde(default, borrow)]
    max_completion_tokens: Raw<'a>,
    #[serde(default, borrow)]
    max_output_tokens: Raw<'a>,
    #[serde(default, borrow)]
    max_tool_calls: Raw<'a>,
    #[serde(default, borrow)]
    n: Raw<'a>,
    #[serde(default, borrow)]
    best_of: Raw<'a>,
    #[serde(default, borrow)]
    service_tier: Raw<'a>,
    #[serde(default, borrow)]
    messages: Raw<'a>,
    #[serde(default, borrow)]
    input: Raw<'a>,
    #[serde(default, borrow)]
    tools: Raw<'a>,
    #[serde(default, borrow)]
    modalities: Raw<'a>,
    #[serde(default, borrow)]
    audio: Raw<'a>,
    #[serde(default, borrow)]
    prediction: Raw<'a>,
    #[serde(default, borrow)]
    web_search_options: Raw<'a>,
    #[serde(default, borrow)]
    previous_response_id: Raw<'a>,
    #[serde(default, borrow)]
    conversation: Raw<'a>,
    #[serde(default, borrow)]
    prompt: Raw<'a>,
    #[serde(default, borrow)]
    background: Raw<'a>,
    #[serde(default, borrow)]
    context_management: Raw<'a>,
    #[serde(default, borrow)]
    reasoning: Raw<'a>,
    // Of providers that speak this shape.
    #[serde(default, borrow)]
    search_parameters: Raw<'a>,
    #[serde(default, borrow)]
    extra_body: Raw<'a>,
    #[serde(default, borrow)]
    search_settings: Raw<'a>,
    #[serde(default, borrow)]
    enable_search: Raw<'a>,
    #[serde(default, borrow)]
    plugins: Raw<'a>,
    #[serde(default, borrow)]
    models: Raw<'a>,
    #[serde(default, borrow)]
    preset: Raw<'a>,
    #[serde(default, borrow)]
    data_sources: Raw<'a>,
}

/// Members that a call must not have, why, and what to do.
fn forbidden(body: &Body<'_>) -> Result<(), Refusal> {
    for (member, why, instead) in [
        (body.conversation, "`conversation` adds input that is not in the request", HISTORY),
        (body.prompt, "`prompt` adds a stored template that is not in the request", INLINE),
        (body.background, "`background` answers after the connection has ended", "Leave `background` out."),
        (body.audio, "audio is not priced", "Ask for text."),
        (body.extra_body, "`extra_body` adds what is not priced", "Leave it out of the request."),
        (body.search_parameters, "`search_parameters` searches without a limit", "Leave it out of the request."),
        (body.search_settings, "`search_settings` searches without a limit", "Leave it out of the request."),
        (body.enable_search, "`enable_search` searches without a limit", "Leave it out of the request."),
        (body.plugins, "`plugins` have prices of their own", "Leave them out of the request."),
        (body.models, "`models` lets another model answer", "Name one model."),
        (body.preset, "`preset` adds a stored template that is not in the request", INLINE),
        (body.data_sources, "`data_sources` adds input that is not in the request", INLINE),
        (
            body.prediction,
            "rejected tokens of a `prediction` are billed beyond the output cap",
            "Leave `prediction` out.",
        ),
        (
            body.web_search_options,
            "`web_search_options` searches without a limit",
            "Use the responses API with a web_search tool.",
        ),
    ] {
        if !member.is_nothing() {
            return Err(unbounded(why, instead));
        }
    }
    // An empty object turns it on.
    if body.web_search_options.text().is_some() || body.search_parameters.text().is_some() {
        return Err(unbounded("it searches without a limit", "Use the responses API with a web_search tool."));
    }
    let modalities: Vec<String> = body.modalities.get("modalities")?.unwrap_or_default();
    if modalities.iter().any(|modality| modality != "text") {
        return Err(unbounded("it asks for output that is not text", "Ask for text."));
    }
    match body.best_of.get::<u64>("best_of")? {
        None | Some(1) => Ok(()),
        Some(_) => Err(unbounded("`best_of` bills answers that are thrown away", "Leave `best_of` out.")),
    }
}

fn tiers(service_tier: Raw<'_>) -> Result<Vec<Tier>, Refusal> {
    let named: Option<String> = service_tier.get("service_tier")?;
    Ok(match named.as_deref() {
        // The project's own setting decides: standard, fast or scale.
        None | Some("auto") => vec![Tier::Standard, Tier::Priority],
        Some("default" | "standard" | "scale" | "on_demand") => vec![Tier::Standard],
        Some("flex") => vec![Tier::Flex],
        Some("priority" | "fast") => vec![Tier::Priority],
        Some("ultrafast") => vec![Tier::Ultrafast],
        Some(_) => {
            return Err(refuse(
                Reason::PriceUnknown,
                "knows no price for this `service_tier`. Use auto, default, flex or priority.".to_owned(),
            ));
        }
    })
}

/// `chained` is the call of a chain, whose input so far is known elsewhere.
fn common(body: &Body<'_>, walked: Walked, chained: bool) -> Result<Shape, Refusal> {
    forbidden(body)?;
    if !chained && !body.previous_response_id.is_nothing() {
        return Err(unbounded("`previous_response_id` adds input that is not in the request", HISTORY));
    }
    Ok(Shape {
        model: body.model.get("model")?.unwrap_or_default(),
        stream: body.stream.get("stream")?.unwrap_or(false),
        choices: 1,
        tiers: tiers(body.service_tier)?,
        // Caching is implicit: any input may be written.
        caching: if walked.long_cache { Caching::Long } else { Caching::Short },
        ..Shape::default()
    })
}

/// `POST /v1/chat/completions`.
pub(crate) fn chat(text: &str, walked: Walked, habits: Habits) -> Result<Shape, Refusal> {
    let body: Body<'_> = parse(text, "the body")?;
    let mut shape = common(&body, walked, false)?;
    shape.cap_key = habits.caps.first().copied().unwrap_or("max_tokens");
    for (name, member) in [("max_tokens", body.max_tokens), ("max_completion_tokens", body.max_completion_tokens)] {
        if habits.caps.contains(&name) {
            shape.note_cap(member, text, name)?;
        } else {
            // A cap that this provider may not know bounds nothing, and may still be obeyed.
            shape.least_output = shape.least_output.max(member.get(name)?.unwrap_or(0));
        }
    }
    shape.choices = body.n.get("n")?.unwrap_or(1).max(1);
    if shape.choices > 128 {
        return Err(refuse_agent(Reason::AmbiguousRequest, "cannot price a call with `n` above 128.".to_owned()));
    }
    if shape.stream && habits.stream_options {
        shape.ask_usage = ask_usage(body.stream_options, text)?;
    }
    for message in body.messages.get::<Vec<Item<'_>>>("messages")?.unwrap_or_default() {
        if !message.audio.is_nothing() {
            return Err(unbounded("a message refers to earlier audio", INLINE));
        }
        content(message.content, &mut shape)?;
    }
    for tool in body.tools.get::<Vec<Tool<'_>>>("tools")?.unwrap_or_default() {
        match tool.kind.as_deref() {
            Some("function" | "custom") => {}
            _ => return Err(hosted(tool.kind.as_deref())),
        }
    }
    Ok(shape)
}

#[derive(Deserialize)]
struct StreamOptions<'a> {
    #[serde(default, borrow)]
    include_usage: Raw<'a>,
}

fn ask_usage(options: Raw<'_>, text: &str) -> Result<AskUsage, Refusal> {
    const WHOLE: &str = "{\"include_usage\":true}";
    let Some(outer) = options.span(text) else {
        return Ok(AskUsage::Insert);
    };
    let Some(inner) = options.get::<StreamOptions<'_>>("stream_options")? else {
        return Ok(AskUsage::Replace(outer, WHOLE));
    };
    if options.is_nothing() {
        return Ok(AskUsage::Replace(outer, WHOLE));
    }
    Ok(match inner.include_usage.get::<bool>("include_usage")? {
        Some(true) => AskUsage::AsIs,
        _ => match inner.include_usage.span(text) {
            Some(span) => AskUsage::Replace(span, "true"),
            None => AskUsage::Replace(outer.start + 1..outer.start + 1, "\"include_usage\":true,"),
        },
    })
}

/// A `response.create` on a WebSocket: what it is called, and the response that it goes on from.
#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(default, borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(default, borrow)]
    previous_response_id: Raw<'a>,
}

/// The type of a message on a WebSocket, and the response that it goes on from.
pub(crate) fn turn(text: &str) -> Result<(String, Option<String>), Refusal> {
    let turn: Turn<'_> = parse(text, "the message")?;
    let kind = turn.kind.get("type")?.unwrap_or_default();
    Ok((kind, turn.previous_response_id.get("previous_response_id")?))
}

/// `POST /v1/responses`, or with `chained` the same on a WebSocket, where what a chain has so far is not in the request.
pub(crate) fn responses(text: &str, walked: Walked, chained: bool) -> Result<Shape, Refusal> {
    let body: Body<'_> = parse(text, "the body")?;
    let mut shape = Shape { tongue: Tongue::Responses, ..common(&body, walked, chained)? };
    shape.cap_key = "max_output_tokens";
    shape.note_cap(body.max_output_tokens, text, "max_output_tokens")?;
    if !body.context_management.is_nothing() {
        shape.extra_passes = 1;
    }
    let mut searching = false;
    if body.input.is_array() {
        for item in body.input.get::<Vec<Item<'_>>>("input")?.unwrap_or_default() {
            searching |= input_item(&item, &mut shape)?;
        }
    }
    searching |= tools(body.tools, &mut shape, 0)?;
    if let Some(mode) = body.reasoning.get::<Reasoning<'_>>("reasoning")?.and_then(|reasoning| reasoning.mode.text())
        && mode != "\"standard\""
    {
        return Err(unbounded("this `reasoning.mode` works beyond the output cap", "Leave `reasoning.mode` out."));
    }
    if searching {
        let declared = body.max_tool_calls.get("max_tool_calls")?;
        shape.searches = Searches::Clamped { declared, span: body.max_tool_calls.span(text) };
    }
    Ok(shape)
}

#[derive(Deserialize)]
struct Reasoning<'a> {
    #[serde(default, borrow)]
    mode: Raw<'a>,
}

/// `POST /v1/embeddings`.
pub(crate) fn embeddings(text: &str, walked: Walked) -> Result<Shape, Refusal> {
    let body: Body<'_> = parse(text, "the body")?;
    let mut shape = Shape { tongue: Tongue::Embeddings, ..common(&body, walked, false)? };
    shape.tiers = vec![Tier::Standard];
    shape.stream = false;
    // Lists of numbers are tokens; a token is at least one digit, so bytes bound both forms.
    Ok(shape)
}

/// A message, an item of `input`, or a part of content.
#[derive(Deserialize)]
struct Item<'a> {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, borrow)]
    id: Raw<'a>,
    #[serde(default, borrow)]
    role: Raw<'a>,
    #[serde(default, borrow)]
    content: Raw<'a>,
    #[serde(default, borrow)]
    encrypted_content: Raw<'a>,
    #[serde(default, borrow)]
    output: Raw<'a>,
    #[serde(default, borrow)]
    tools: Raw<'a>,
    #[serde(default, borrow)]
    image_url: Raw<'a>,
    #[serde(default, borrow)]
    file_id: Raw<'a>,
    #[serde(default, borrow)]
    file_url: Raw<'a>,
    #[serde(default, borrow)]
    file_data: Raw<'a>,
    #[serde(default, borrow)]
    file: Raw<'a>,
    #[serde(default, borrow)]
    audio: Raw<'a>,
    #[serde(default, borrow)]
    input_audio: Raw<'a>,
    #[serde(default, borrow)]
    result: Raw<'a>,
}

/// Items of `input` that say all of themselves, whatever their `id`.
const WHOLE_ITEMS: [&str; 17] = [
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "compaction_trigger",
    "custom_tool_call",
    "custom_tool_call_output",
    "function_call",
    "function_call_output",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "message",
    "shell_call",
    "shell_call_output",
];

/// Kinds of content whose tokens stand in the request, or which are looked at below.
const PARTS: [&str; 13] = [
    "encrypted_content",
    "file",
    "image_url",
    "input_audio",
    "input_file",
    "input_image",
    "input_text",
    "output_text",
    "reasoning_text",
    "refusal",
    "summary_text",
    "text",
    "thinking",
];

/// Gives whether it brings a web search tool.
fn input_item(item: &Item<'_>, shape: &mut Shape) -> Result<bool, Refusal> {
    let by_id = !item.id.is_nothing();
    match item.kind.as_deref() {
        Some("item_reference") => return Err(referred()),
        // The type of a reference may be left out.
        None if by_id && (item.role.is_nothing() || item.content.is_nothing()) => return Err(referred()),
        Some("computer_call_output") => return Err(hosted(Some("computer_use"))),
        Some("image_generation_call") if item.result.is_string() => {
            shape.note_image(item.result.text().map_or(0, str::len))
        }
        // What is stored under its id is input: as much as the model takes, for all that is known here.
        Some(kind) if by_id && item.encrypted_content.is_nothing() && !WHOLE_ITEMS.contains(&kind) => {
            shape.whole_context = true;
        }
        _ => {}
    }
    part(item, shape)?;
    content(item.content, shape)?;
    content(item.output, shape)?;
    tools(item.tools, shape, 0)
}

fn referred() -> Refusal {
    unbounded("an `item_reference` adds input that is not in the request", HISTORY)
}

/// Content: a string, or parts.
fn content(raw: Raw<'_>, shape: &mut Shape) -> Result<(), Refusal> {
    if !raw.is_array() {
        return Ok(());
    }
    for item in raw.get::<Vec<Item<'_>>>("content")?.unwrap_or_default() {
        // Others name what is fetched elsewhere: documents, videos. Without a type a server may go by the members' names.
        if !item.kind.as_deref().is_some_and(|kind| PARTS.contains(&kind)) {
            return Err(unbounded(
                "a part of its content is of a kind whose size is not known",
                "Send text or images.",
            ));
        }
        part(&item, shape)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct ImageUrl<'a> {
    #[serde(default, borrow)]
    url: Raw<'a>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default, borrow)]
    file_id: Raw<'a>,
    #[serde(default, borrow)]
    file_data: Raw<'a>,
}

fn part(item: &Item<'_>, shape: &mut Shape) -> Result<(), Refusal> {
    if !item.input_audio.is_nothing() || item.kind.as_deref() == Some("input_audio") {
        return Err(unbounded("audio is not priced", "Send text."));
    }
    let file = item.file.get::<File<'_>>("file")?;
    let by_id = !item.file_id.is_nothing()
        || !item.file_url.is_nothing()
        || file.as_ref().is_some_and(|file| !file.file_id.is_nothing());
    if by_id {
        return Err(unbounded("it has a file by id or URL, whose size is not known", INLINE));
    }
    if !item.file_data.is_nothing() || file.is_some_and(|file| !file.file_data.is_nothing()) {
        shape.whole_context = true;
    }
    let url = if item.image_url.is_string() {
        item.image_url
    } else {
        item.image_url.get::<ImageUrl<'_>>("image_url")?.map_or(Raw::default(), |image| image.url)
    };
    match url.text() {
        Some(text) => shape.note_image_url(text.trim_matches('"')),
        None if matches!(item.kind.as_deref(), Some("image_url" | "input_image")) => {
            Err(unbounded("it has an image without its data", INLINE))
        }
        None => Ok(()),
    }
}
