//! A session of an agent: which tool the model calls after how many tool results.
//!
//! The words are the agents' own tools: Claude Code's Write, Read and Bash; Codex's shell under the name it offers.

use serde_json::{Value, json};

/// What the model says next.
#[derive(Clone, Debug)]
pub enum Turn {
    /// It calls a tool.
    Call(ToolCall),
    /// It is done.
    Done(String),
}

/// One tool call.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// The tool's name as the agent offered it.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
}

impl ToolCall {
    /// The tool takes text, not an object.
    #[must_use]
    pub fn freeform(&self) -> bool {
        self.arguments.is_string()
    }

    /// The arguments as they are sent.
    #[must_use]
    pub fn text(&self) -> String {
        self.arguments.as_str().map_or_else(|| self.arguments.to_string(), str::to_owned)
    }
}

/// The last words of every session.
pub const DONE: &str = "STAND-IN-SESSION-DONE";

enum Step {
    Write(&'static str, &'static str),
    Read(&'static str),
    Shell(&'static str),
}

/// Eleven tool calls: twelve model turns with the last words.
const STEPS: &[Step] = &[
    Step::Write("notes.txt", "caracal session notes\n"),
    Step::Read("notes.txt"),
    Step::Shell(
        "curl -sS -o hello.txt -w '%{http_code} %{http_version}\\n' https://example.com/hello && cat hello.txt",
    ),
    Step::Shell("git clone -q https://github.com/acme/demo.git demo && ls demo"),
    Step::Read("demo/README.md"),
    Step::Shell("git -C demo log --oneline | tee log.txt"),
    Step::Shell(
        "curl -sS -X POST --data-binary @notes.txt https://example.com/echo -o echoed.txt && cmp notes.txt echoed.txt && echo same",
    ),
    Step::Shell("curl -sS -o denied.txt -w '%{http_code}\\n' https://denied.example/ || true"),
    Step::Write("summary.txt", "cloned and echoed\n"),
    Step::Shell("cat notes.txt summary.txt > both.txt && wc -c < both.txt"),
    Step::Shell("echo finished > finished.txt && ls"),
];

/// How many model calls a whole session takes.
pub const TURNS: usize = STEPS.len() + 1;

/// The turn after `results` tool results, with files below `dir`.
#[must_use]
pub fn turn(dir: &str, results: usize, tools: &[String]) -> Turn {
    match STEPS.get(results) {
        Some(step) => Turn::Call(call(dir, step, tools)),
        None => Turn::Done(format!("{DONE} after {results} tool results.")),
    }
}

fn call(dir: &str, step: &Step, tools: &[String]) -> ToolCall {
    let has = |name: &str| tools.iter().any(|tool| tool == name);
    match step {
        Step::Write(file, text) if has("Write") => {
            ToolCall { name: "Write".into(), arguments: json!({"file_path": format!("{dir}/{file}"), "content": text}) }
        }
        Step::Read(file) if has("Read") => {
            ToolCall { name: "Read".into(), arguments: json!({"file_path": format!("{dir}/{file}")}) }
        }
        Step::Write(file, text) => shell(dir, &format!("printf %s '{text}' > {file}"), tools),
        Step::Read(file) => shell(dir, &format!("cat {file}"), tools),
        Step::Shell(line) => shell(dir, line, tools),
    }
}

fn shell(dir: &str, line: &str, tools: &[String]) -> ToolCall {
    let line = format!("cd {dir} && {line}");
    let has = |name: &str| tools.iter().any(|tool| tool == name);
    if has("Bash") {
        return ToolCall { name: "Bash".into(), arguments: json!({"command": line, "description": "the next step"}) };
    }
    if has("exec") {
        // Codex's one tool runs JavaScript, in which its shell is a function.
        let script = format!("text(await tools.exec_command({}))", json!({"cmd": line, "login": false}));
        return ToolCall { name: "exec".into(), arguments: Value::String(script) };
    }
    if has("exec_command") {
        return ToolCall { name: "exec_command".into(), arguments: json!({"cmd": line}) };
    }
    if has("shell_command") {
        return ToolCall { name: "shell_command".into(), arguments: json!({"command": line}) };
    }
    ToolCall { name: "shell".into(), arguments: json!({"command": ["bash", "-lc", line]}) }
}
