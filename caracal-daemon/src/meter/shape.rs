//! The parts of a paid call that its bill depends on, read from a body that is known to have one reading.
//! Each dialect (`openai`, `anthropic`) fills a [`Shape`]; places in the text are kept so that edits change nothing else.

use super::book::Tier;
use super::{refuse, refuse_agent};
use crate::refusal::{Reason, Refusal};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::ops::Range;

/// A member's value as it stands in the text; tells `null` from absent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Raw<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Raw<'a>, D::Error> {
        <&RawValue>::deserialize(from).map(|raw| Raw(Some(raw)))
    }
}

impl<'a> Raw<'a> {
    /// The value's text, unless absent or `null`.
    pub(crate) fn text(self) -> Option<&'a str> {
        self.0.map(RawValue::get).filter(|text| *text != "null")
    }

    /// Absent, `null`, `false`, or empty.
    pub(crate) fn is_nothing(self) -> bool {
        self.text().is_none_or(|text| matches!(text, "false" | "\"\"") || compact(text, "[]") || compact(text, "{}"))
    }

    /// The value as `T`.
    pub(crate) fn get<T: Deserialize<'a>>(self, what: &str) -> Result<Option<T>, Refusal> {
        self.text().map(|text| parse(text, what)).transpose()
    }

    /// Where the value stands in `base`, `null` included.
    pub(crate) fn span(self, base: &str) -> Option<Range<usize>> {
        let text = self.0?.get();
        let start = (text.as_ptr() as usize).checked_sub(base.as_ptr() as usize)?;
        let end = start.checked_add(text.len())?;
        (end <= base.len()).then_some(start..end)
    }

    /// The value is an array.
    pub(crate) fn is_array(self) -> bool {
        self.text().is_some_and(|text| text.starts_with('['))
    }

    /// The value is a string.
    pub(crate) fn is_string(self) -> bool {
        self.text().is_some_and(|text| text.starts_with('"'))
    }
}

fn compact(text: &str, brackets: &str) -> bool {
    text.len() < 16 && text.bytes().filter(|byte| !byte.is_ascii_whitespace()).eq(brackets.bytes())
}

/// Reads `text` as `T`.
pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|_| {
        refuse_agent(
            Reason::AmbiguousRequest,
            format!("cannot price this call: `{what}` is not of the kind that the provider documents."),
        )
    })
}

/// A refusal of a shape whose bill has no upper bound.
pub(crate) fn unbounded(what: &str, instead: &str) -> Refusal {
    refuse(Reason::Unbounded, format!("refused this call because its cost has no upper bound: {what}. {instead}"))
}

/// One output cap as it stands in the request.
#[derive(Clone, Debug)]
pub(crate) struct Cap {
    pub(crate) span: Range<usize>,
    /// `None`: written as `null`.
    pub(crate) tokens: Option<u64>,
}

/// How many server-side web searches a call can make.
#[derive(Clone, Debug, Default)]
pub(crate) enum Searches {
    /// None.
    #[default]
    None,
    /// At most this many; the request says so and it is not edited.
    Fixed(u64),
    /// As many as `max_tool_calls` says, which is edited to fit; where it stands, if it does.
    Clamped { declared: Option<u64>, span: Option<Range<usize>> },
}

/// What is done so that a stream reports its usage.
#[derive(Clone, Debug, Default)]
pub(crate) enum AskUsage {
    /// Nothing: it does already.
    #[default]
    AsIs,
    /// This text replaces that place.
    Replace(Range<usize>, &'static str),
    /// `stream_options` is added.
    Insert,
}

/// How long the provider may keep input in its cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Caching {
    /// Nothing is written.
    #[default]
    Never,
    /// For minutes.
    Short,
    /// For hours.
    Long,
}

/// In which words an answer tells its usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tongue {
    /// OpenAI chat completions.
    #[default]
    Chat,
    /// OpenAI responses.
    Responses,
    /// OpenAI embeddings.
    Embeddings,
    /// Anthropic messages.
    Messages,
    /// Google Gemini.
    Gemini,
    /// Bedrock's converse.
    Converse,
    /// Bedrock's invoke of a model whose own words are not read: the counts in head or last chunk.
    Counts,
    /// Nothing is told: the price is fixed.
    Nothing,
}

/// Where the output cap is written when none stands in the request.
#[derive(Clone, Debug, Default)]
pub(crate) enum CapHome {
    /// At the top.
    #[default]
    Top,
    /// In an object that stands there: after its opening brace. `bool`: it is empty.
    Inside(usize, bool),
    /// In an object of this name that is not there yet.
    Wrapped(&'static str),
    /// In an object that takes the place of a `null`.
    Instead(Range<usize>),
}

/// The home of a cap in the object `raw`.
pub(crate) fn home(raw: Raw<'_>, base: &str) -> CapHome {
    match (raw.text(), raw.span(base)) {
        (Some(text), Some(span)) if text.starts_with('{') => {
            let empty = text.get(1..).is_some_and(|rest| rest.trim_start().starts_with('}'));
            CapHome::Inside(span.start + 1, empty)
        }
        _ => CapHome::Top,
    }
}

/// What the bill of a call depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shape {
    pub(crate) tongue: Tongue,
    /// Bytes of the body, where they may have a price.
    pub(crate) sent: u64,
    /// Nothing in the body is edited: it is signed, or its words are not known.
    pub(crate) signed: bool,
    pub(crate) cap_home: CapHome,
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// The cap's member where none is written; empty where the call has no output.
    pub(crate) cap_key: &'static str,
    pub(crate) caps: Vec<Cap>,
    /// A cap that the provider may or may not obey: the model's maximum holds unless this is more.
    pub(crate) least_output: u64,
    /// Answers to one prompt.
    pub(crate) choices: u64,
    /// Inline images, and their bytes, which are not text.
    pub(crate) images: u64,
    pub(crate) image_bytes: u64,
    /// Something inline whose tokens no rule bounds (a PDF): counts as the whole context.
    pub(crate) whole_context: bool,
    /// Bytes by which the text may grow before it is cut into tokens.
    pub(crate) grown: u64,
    /// Input tokens of a chain before this call, at most.
    pub(crate) earlier: u64,
    /// Tools that the provider describes to the model in words of its own.
    pub(crate) typed_tools: u64,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) caching: Caching,
    pub(crate) searches: Searches,
    /// Further passes of the model over its input: server-side compaction.
    pub(crate) extra_passes: u64,
    pub(crate) thinking: Option<(u64, Range<usize>)>,
    pub(crate) ask_usage: AskUsage,
    /// Processing in the US: asked for, or possible by default.
    pub(crate) geo_us: bool,
    pub(crate) geo_us_asked: bool,
    pub(crate) fast: bool,
}

impl Shape {
    /// The largest cap written; `None` when one is missing or `null` and another does not stand in.
    pub(crate) fn cap(&self) -> Option<u64> {
        self.caps.iter().filter_map(|cap| cap.tokens).max()
    }

    /// Notes an output cap.
    pub(crate) fn note_cap(&mut self, raw: Raw<'_>, base: &str, what: &str) -> Result<(), Refusal> {
        if let Some(span) = raw.span(base) {
            self.caps.push(Cap { span, tokens: raw.get(what)? });
        }
        Ok(())
    }

    /// Notes an inline image given as a `data:` URL; a remote one has no bound.
    pub(crate) fn note_image_url(&mut self, url: &str) -> Result<(), Refusal> {
        if !url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) {
            return Err(unbounded(
                "it has an image by URL, whose size is not known",
                "Send the image inline as a data: URL.",
            ));
        }
        self.note_image(url.len());
        Ok(())
    }

    /// Notes an inline image of `bytes` encoded bytes.
    pub(crate) fn note_image(&mut self, bytes: usize) {
        self.images += 1;
        self.image_bytes = self.image_bytes.saturating_add(u64::try_from(bytes).unwrap_or(0));
    }
}
