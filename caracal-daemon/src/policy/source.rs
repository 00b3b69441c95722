//! Takes a [`Config`] and the Cedar files that it names; gives every policy, validated strictly, with its place.
//! Refuses what does not parse, does not fit the schema, or has an id twice: all such places at once.

use super::sugar::{self, Piece};
use super::{Action, Mode};
use crate::config::{Config, position};
use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint, Schema,
    ValidationMode, Validator,
};
use miette::Diagnostic;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// The schema that every policy is validated against.
pub(super) const SCHEMA: &str = include_str!("schema.cedarschema");

/// A Cedar file larger than this is not read, bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Why a policy set is not accepted: every place that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PolicyError {
    /// At least one.
    pub problems: Vec<PolicyProblem>,
}

/// One place that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The file.
    pub file: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.file)?;
        if self.line > 0 {
            write!(out, ":{}", self.line)?;
        }
        write!(out, ": {}", self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(out, "; {help}"))
    }
}

impl From<PolicyProblem> for PolicyError {
    fn from(problem: PolicyProblem) -> PolicyError {
        PolicyError { problems: vec![problem] }
    }
}

/// One policy of the set.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) policy: Policy,
    /// What records and people call it.
    pub(super) id: Arc<str>,
    /// Its file; empty for what is built in.
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) text: String,
    /// The whole Cedar file, where it comes from one.
    whole: Option<Arc<str>>,
    pub(super) actions: Vec<Action>,
    pub(super) agent: Option<String>,
    pub(super) host: Option<String>,
    pub(super) notes: Notes,
}

/// What a permit's annotations say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    pub(super) mode: Mode,
    pub(super) private: bool,
    pub(super) free: bool,
    pub(super) learn: bool,
}

/// All policies of a configuration, and what the validator warns of.
pub(super) fn read(config: &Config, base_dir: &Path) -> Result<(Vec<Entry>, Vec<PolicyProblem>), PolicyError> {
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    let file: Arc<str> = config.file.display().to_string().into();
    let allow = config.allow.iter().zip(1..).flat_map(|(rule, number)| sugar::allow(rule, number));
    let deny = config.deny.iter().zip(1..).flat_map(|(rule, number)| sugar::deny(rule, number));
    for piece in sugar::builtin(&crate::config::own_hosts(config)).into_iter().chain(allow).chain(deny) {
        match Entry::of_piece(piece, &file) {
            Ok(entry) => entries.push(entry),
            Err(problem) => problems.push(problem),
        }
    }
    let rule_ids: HashSet<Arc<str>> = entries.iter().map(|entry| Arc::clone(&entry.id)).collect();
    for path in &config.policy.cedar {
        match read_cedar(&base_dir.join(path), &rule_ids) {
            Ok(more) => entries.extend(more),
            Err(error) => problems.extend(error.problems),
        }
    }
    if !problems.is_empty() {
        return Err(PolicyError { problems });
    }
    let warnings = validate(&entries)?;
    Ok((entries, warnings))
}

impl Entry {
    fn of_piece(piece: Piece, file: &Arc<str>) -> Result<Entry, PolicyProblem> {
        let file = if piece.line == 0 { Arc::from("") } else { Arc::clone(file) };
        let wrong = |message| PolicyProblem { file: file.to_string(), line: piece.line, message, help: None };
        let policy = Policy::parse(Some(PolicyId::new(&piece.cedar_id)), &piece.text)
            .map_err(|error| wrong(format!("the rule cannot be written in Cedar: {error}")))?;
        let notes = Notes { learn: &*piece.id == sugar::LEARN, ..notes(&policy).map_err(wrong)? };
        let Piece { id, text, actions, agent, host, line, .. } = piece;
        Ok(Entry { policy, id, file, line, text, whole: None, actions, agent, host, notes })
    }

    /// Where it stands, for people.
    pub(super) fn place(&self) -> String {
        if self.file.is_empty() { "built in".to_owned() } else { format!("{}:{}", self.file, self.line) }
    }
}

fn notes(policy: &Policy) -> Result<Notes, String> {
    let mut notes = Notes::default();
    for (key, value) in policy.annotations() {
        let flag = || match value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("@{key}({value:?}): write \"true\" or \"false\"")),
        };
        match key {
            "private" => notes.private = flag()?,
            "free" => notes.free = flag()?,
            "mode" => {
                notes.mode = match value {
                    "inspect" => Mode::Inspect,
                    "tls-passthrough" => Mode::TlsPassthrough,
                    "tcp" => Mode::Tcp,
                    _ => return Err(format!("@mode({value:?}): write \"inspect\", \"tls-passthrough\" or \"tcp\"")),
                }
            }
            _ => continue,
        }
        if policy.effect() == Effect::Forbid {
            return Err(format!("@{key} stands on a forbid: only a permit says how"));
        }
    }
    Ok(notes)
}

fn read_cedar(path: &Path, rule_ids: &HashSet<Arc<str>>) -> Result<Vec<Entry>, PolicyError> {
    let file = path.display().to_string();
    let whole = |message: String, help: Option<&str>| PolicyProblem {
        file: file.clone(),
        line: 0,
        message,
        help: help.map(Into::into),
    };
    let size = std::fs::metadata(path).map_err(|why| whole(why.to_string(), Some("see `[policy] cedar`")))?.len();
    if size > MAX_BYTES {
        return Err(whole(format!("the file has {size} bytes; at most {MAX_BYTES} are read"), None).into());
    }
    let text = std::fs::read_to_string(path).map_err(|why| whole(why.to_string(), None))?;
    let parsed = PolicySet::from_str(&text).map_err(|errors| PolicyError {
        problems: errors.iter().map(|error| problem(&file, &text, error)).collect(),
    })?;
    if parsed.templates().next().is_some() {
        return Err(whole(
            "templates (?principal, ?resource) are not linked here".into(),
            Some("write the policy out"),
        )
        .into());
    }
    cedar_entries(&parsed, &file, &text, stem(path), rule_ids)
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("cedar")
}

/// The file's policies in the order in which they stand, each with an id: its `@id`, or the file's name and a number.
fn cedar_entries(
    parsed: &PolicySet,
    file: &str,
    text: &str,
    stem: &str,
    rule_ids: &HashSet<Arc<str>>,
) -> Result<Vec<Entry>, PolicyError> {
    let mut placed: Vec<(usize, &Policy)> = parsed.policies().map(|policy| (offset(text, policy), policy)).collect();
    placed.sort_by_key(|(at, _)| *at);
    let whole: Arc<str> = text.into();
    let mut entries: Vec<Entry> = Vec::new();
    let mut problems = Vec::new();
    let mut seen: HashMap<Arc<str>, usize> = HashMap::new();
    for (number, (at, policy)) in (1..).zip(placed) {
        let (line, _) = position(text, at);
        let mut wrong =
            |message: String| problems.push(PolicyProblem { file: file.to_owned(), line, message, help: None });
        let id: Arc<str> = policy.annotation("id").map_or_else(|| format!("{stem}-{number}"), ToOwned::to_owned).into();
        if let Some(first) = seen.get(&id) {
            wrong(format!("policy {id:?} is there twice, first in line {first}"));
        } else if id.is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
            wrong(format!("@id({id:?}): an id is 1 to 128 bytes without control characters"));
        } else if rule_ids.contains(&id) {
            wrong(format!("policy {id:?} has the id of a rule in caracal.toml; give it another @id"));
        }
        seen.entry(Arc::clone(&id)).or_insert(line);
        let notes = notes(policy).unwrap_or_else(|message| {
            wrong(message);
            Notes::default()
        });
        let actions = actions(policy);
        let on_hosts =
            actions.iter().all(|action| matches!(action, Action::Connect | Action::Resolve | Action::Request));
        entries.push(Entry {
            policy: policy.new_id(PolicyId::new(format!("{file}/{id}"))),
            id,
            file: file.into(),
            line,
            text: policy.to_string(),
            whole: Some(Arc::clone(&whole)),
            agent: exact(match policy.principal_constraint() {
                PrincipalConstraint::Eq(uid) => Some(uid),
                _ => None,
            }),
            host: exact(match policy.resource_constraint() {
                ResourceConstraint::Eq(uid) if on_hosts => Some(uid),
                _ => None,
            }),
            actions,
            notes,
        });
    }
    if problems.is_empty() { Ok(entries) } else { Err(PolicyError { problems }) }
}

fn exact(uid: Option<EntityUid>) -> Option<String> {
    uid.map(|uid| uid.id().unescaped().to_owned())
}

/// Where the policy's own text stands in its file.
fn offset(text: &str, policy: &Policy) -> usize {
    text.find(policy.to_string().trim()).unwrap_or(0)
}

/// The actions that the policy's scope can match; all that are named must be known, which the validator sees to.
fn actions(policy: &Policy) -> Vec<Action> {
    let named = match policy.action_constraint() {
        ActionConstraint::Any => return Action::ALL.to_vec(),
        ActionConstraint::Eq(uid) => vec![uid],
        ActionConstraint::In(uids) => uids,
    };
    named.iter().filter_map(|uid| uid.id().unescaped().parse().ok()).collect()
}

pub(super) fn schema() -> Result<Schema, PolicyError> {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| {
        PolicyError::from(PolicyProblem {
            file: "schema.cedarschema".into(),
            line: 0,
            message: error.to_string(),
            help: None,
        })
    })?;
    Ok(schema)
}

/// Strict validation of all policies together. Gives the warnings.
fn validate(entries: &[Entry]) -> Result<Vec<PolicyProblem>, PolicyError> {
    let whole = |message| PolicyError::from(PolicyProblem { file: "policy".into(), line: 0, message, help: None });
    let set = PolicySet::from_policies(entries.iter().map(|entry| entry.policy.clone()))
        .map_err(|error| whole(error.to_string()))?;
    let result = Validator::new(schema()?).validate(&set, ValidationMode::Strict);
    let by_id: HashMap<&PolicyId, &Entry> = entries.iter().map(|entry| (entry.policy.id(), entry)).collect();
    let place = |id: &PolicyId, error: &dyn Diagnostic| {
        let Some(entry) = by_id.get(id) else {
            return PolicyProblem { file: id.to_string(), line: 0, message: error.to_string(), help: None };
        };
        let found = problem(&entry.file, entry.whole.as_deref().unwrap_or_default(), error);
        let line = if entry.whole.is_some() && found.line > 0 { found.line } else { entry.line };
        let help = known_elsewhere(&found.message).or(found.help);
        PolicyProblem {
            line,
            help,
            message: format!("policy `{}`: {}", entry.id, strip_id(&found.message, id)),
            ..found
        }
    };
    let mut problems: Vec<PolicyProblem> =
        result.validation_errors().map(|error| place(error.policy_id(), error)).collect();
    // One mistake in a policy for several actions is found once for each.
    problems.dedup_by(|a, b| (&a.file, a.line, &a.help) == (&b.file, b.line, &b.help) && a.help.is_some());
    if !problems.is_empty() {
        return Err(PolicyError { problems });
    }
    Ok(result.validation_warnings().map(|warning| place(warning.policy_id(), warning)).collect())
}

/// For an attribute that only some actions have, what to do about it.
fn known_elsewhere(message: &str) -> Option<String> {
    let name = message.split_once("attribute `")?.1.split('`').next()?;
    let known = super::set::ATTRIBUTES.contains(&name);
    known.then(|| {
        format!("not every action has it: name those that do in the policy's scope, or ask `context has {name}` first")
    })
}

/// Cedar's sentence without "for policy `...`, ": the id is said already.
fn strip_id(message: &str, id: &PolicyId) -> String {
    message.replace(&format!("for policy `{id}`, "), "")
}

/// One of Cedar's errors with its line and its hint.
fn problem(file: &str, text: &str, error: &dyn Diagnostic) -> PolicyProblem {
    let label = error.labels().and_then(|mut labels| labels.next());
    let line = label.as_ref().map_or(0, |label| position(text, label.offset()).0);
    let told = label.as_ref().and_then(|label| label.label()).map(|label| format!(": {label}")).unwrap_or_default();
    PolicyProblem {
        file: file.to_owned(),
        line,
        message: format!("{error}{told}"),
        help: error.help().map(|help| help.to_string()),
    }
}
