//! OpenAI's tools: those that the client runs pass, web search is bounded, and what else the provider runs is refused.

use super::shape::{Raw, Shape, unbounded};
use crate::refusal::Refusal;
use serde::Deserialize;

/// One tool.
#[derive(Deserialize)]
pub(crate) struct Tool<'a> {
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default, borrow)]
    tools: Raw<'a>,
    #[serde(default, borrow)]
    environment: Raw<'a>,
    #[serde(default, borrow)]
    execution: Raw<'a>,
}

#[derive(Deserialize)]
struct Environment {
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

/// Gives whether a web search tool is among them.
pub(crate) fn tools(raw: Raw<'_>, shape: &mut Shape, depth: u8) -> Result<bool, Refusal> {
    let mut searching = false;
    for tool in raw.get::<Vec<Tool<'_>>>("tools")?.unwrap_or_default() {
        match tool.kind.as_deref() {
            Some("function" | "custom") => {}
            Some("local_shell" | "apply_patch") => shape.typed_tools += 1,
            Some("shell") => {
                let environment =
                    tool.environment.get::<Environment>("environment")?.and_then(|environment| environment.kind);
                if environment.as_deref() != Some("local") {
                    return Err(hosted(Some("shell in a hosted container")));
                }
                shape.typed_tools += 1;
            }
            // It looks among tools that stand in the request; where the client looks, the provider does nothing.
            Some("tool_search") if tool.execution.text() == Some("\"client\"") => shape.typed_tools += 1,
            Some("namespace") if depth < 4 => searching |= tools(tool.tools, shape, depth + 1)?,
            Some(kind)
                if kind == "web_search"
                    || kind.starts_with("web_search_2")
                    || kind.starts_with("web_search_preview") =>
            {
                shape.typed_tools += 1;
                searching = true;
            }
            other => return Err(hosted(other)),
        }
    }
    Ok(searching)
}

/// The refusal of a tool that the provider runs and that has no price.
pub(crate) fn hosted(kind: Option<&str>) -> Refusal {
    let kind: String =
        kind.unwrap_or("without a type").chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(48).collect();
    unbounded(
        &format!("the hosted tool {kind} has no price here"),
        "Leave the tool out of the request, or turn it off in the agent.",
    )
}
