//! docs/COVERAGE.md: what each kernel can enforce, written from what `caracald doctor` said on it and from nothing else.
//!
//! docs/coverage.json keeps the part of `kernels.json` that the table is made of, so that a test can make it again and see
//! an edit by hand; each run compares it with what the kernels at hand say.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    checkout::Checkout,
    report::{Case, Report, Verdict},
};

/// The command that writes both files.
const COMMAND: &str = "cargo xtask vm --coverage";

/// A boot, as far as the table goes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Column {
    /// `5.10`
    series: String,
    release: String,
    suite: String,
    /// Debian's version of the package.
    version: String,
    /// `pure` or `hybrid`.
    cgroup: String,
    bpf_lsm: bool,
    enforceable: String,
    checks: Vec<Row>,
    /// Ways out, where this caracald lists them: what stands against each under `attach` and under `run`.
    #[serde(default)]
    vectors: Vec<Vector>,
    /// What no level covers, where this caracald says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    never: Vec<Never>,
}

/// One line of `doctor`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Row {
    name: String,
    need: String,
    state: String,
    /// What was seen, where that is not good.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    found: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    remedy: String,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Vector {
    name: String,
    #[serde(default)]
    attach: String,
    #[serde(default)]
    run: String,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Never {
    code: String,
    means: String,
}

/// One line of `doctor` in a report.
pub(crate) struct Check<'a> {
    pub(crate) name: &'a str,
    pub(crate) state: &'a str,
    pub(crate) need: &'a str,
    pub(crate) found: &'a str,
    remedy: &'a str,
}

/// The lines of `doctor` in a case of `kernels.json`.
pub(crate) fn checks(case: &Map<String, Value>) -> impl Iterator<Item = Check<'_>> {
    case.get("checks").and_then(Value::as_array).into_iter().flatten().map(|check| {
        let text = |key: &str| check.get(key).and_then(Value::as_str).unwrap_or_default();
        Check {
            name: text("name"),
            state: text("state"),
            need: text("need"),
            found: text("found"),
            remedy: text("remedy"),
        }
    })
}

/// Writes both files from a run's reports.
///
/// # Errors
/// When no kernel answered, or a file cannot be written.
pub(crate) fn write(checkout: &Checkout, reports: &[Report]) -> Result<()> {
    let mut columns = read(checkout).unwrap_or_default();
    let fresh = columns_of(reports);
    if fresh.is_empty() {
        anyhow::bail!("no kernel answered: docs/COVERAGE.md is left as it is");
    }
    // Kernels that were not tried in this run keep what they said in the last one.
    columns.retain(|old| !fresh.iter().any(|new| new.place() == old.place()));
    columns.extend(fresh);
    columns.sort_by_key(|column| (numbers(&column.series), column.cgroup == "hybrid", !column.bpf_lsm));
    let [data, table] = paths(checkout);
    if let Some(directory) = data.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    // A boot a line: a change of one kernel is a change of one line.
    let lines = columns.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    fs::write(&data, text).with_context(|| data.display().to_string())?;
    fs::write(&table, render(&columns)).with_context(|| table.display().to_string())?;
    eprintln!("ok  {} and {}", table.display(), data.display());
    Ok(())
}

/// Adds a case to the report `kernels`: the docs say of the kernels at hand what those say themselves.
pub(crate) fn compare(checkout: &Checkout, reports: &mut [Report]) {
    let fresh = columns_of(reports);
    let Some(report) = reports.iter_mut().find(|report| report.name == "kernels") else { return };
    if fresh.is_empty() {
        return;
    }
    let mut case = Case::new("docs/COVERAGE.md says what the kernels say", Verdict::Passed);
    let differences = read(checkout).map(|old| differences(&old, &fresh));
    let why = match differences {
        Ok(differences) if differences.is_empty() => None,
        Ok(differences) => Some(differences.join("; ")),
        Err(error) => Some(format!("{error:#}")),
    };
    if let Some(why) = why {
        case.verdict = Verdict::Failed;
        case.why = Some(format!("{why}. `{COMMAND}` writes it anew"));
    }
    report.cases.push(case);
}

impl Column {
    /// What a newer one replaces.
    fn place(&self) -> (&str, &str, bool) {
        (&self.suite, &self.cgroup, self.bpf_lsm)
    }

    fn title(&self) -> String {
        format!("{}{}", self.series, if self.bpf_lsm { " + LSM" } else { "" })
    }

    fn of(case: &Case) -> Option<Self> {
        let text = |key: &str| case.more.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let release = text("release")?;
        let packages = case.more.get("packages")?.as_array()?;
        let rows = checks(&case.more).map(|check| {
            let good = check.state == "yes";
            let unless_good = |text: &str| if good { String::new() } else { text.to_owned() };
            Row {
                name: check.name.to_owned(),
                need: check.need.to_owned(),
                state: check.state.to_owned(),
                found: unless_good(if check.name == "kernel" { "" } else { check.found }),
                remedy: unless_good(check.remedy),
            }
        });
        let [vectors, never] = ["vectors", "never"].map(|key| case.more.get(key).cloned().unwrap_or_default());
        Some(Self {
            series: release.split('.').take(2).collect::<Vec<_>>().join("."),
            suite: text("suite")?,
            version: packages.first()?.get("version")?.as_str()?.to_owned(),
            cgroup: text("cgroup")?,
            bpf_lsm: case.more.get("bpf_lsm")?.as_bool()?,
            enforceable: text("enforceable")?,
            checks: rows.collect(),
            vectors: serde_json::from_value(vectors).unwrap_or_default(),
            never: serde_json::from_value(never).unwrap_or_default(),
            release,
        })
    }
}

fn columns_of(reports: &[Report]) -> Vec<Column> {
    reports
        .iter()
        .filter(|report| report.name == "kernels")
        .flat_map(|report| &report.cases)
        .filter_map(Column::of)
        .collect()
}

fn paths(checkout: &Checkout) -> [PathBuf; 2] {
    ["coverage.json", "COVERAGE.md"].map(|name| checkout.root.join("docs").join(name))
}

fn read(checkout: &Checkout) -> Result<Vec<Column>> {
    let [data, _] = paths(checkout);
    let text = fs::read(&data).with_context(|| data.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not what `{COMMAND}` writes", data.display()))
}

fn numbers(series: &str) -> Vec<u32> {
    series.split('.').filter_map(|number| number.parse().ok()).collect()
}

/// What the docs say otherwise than the kernels at hand. A suite's newer kernel is compared with its older one: Debian
/// releases one every few weeks, and the table is about what they can do.
fn differences(old: &[Column], new: &[Column]) -> Vec<String> {
    let mut found = Vec::new();
    for column in new {
        let Some(before) = old.iter().find(|before| before.place() == column.place()) else {
            found.push(format!("it has no column for Linux {} ({}, {})", column.release, column.suite, column.cgroup));
            continue;
        };
        let told = column.told();
        let said = before.told();
        for name in told.keys().chain(said.keys()).collect::<std::collections::BTreeSet<_>>() {
            if told.get(name) != said.get(name) {
                let word = |of: &BTreeMap<String, String>| of.get(name).cloned().unwrap_or_else(|| "nothing".into());
                found.push(format!(
                    "{name} on Linux {} ({}): {} in the docs, {} on the kernel",
                    column.series,
                    column.cgroup,
                    word(&said),
                    word(&told)
                ));
            }
        }
    }
    found
}

impl Column {
    /// Every word of the column by its row.
    fn told(&self) -> BTreeMap<String, String> {
        let checks = self.checks.iter().map(|row| (row.name.clone(), row.state.clone()));
        let vectors = self.vectors.iter().map(|row| (format!("way out {}", row.name), row.word()));
        let never = self.never.iter().map(|row| (format!("not covered {}", row.code), row.means.clone()));
        checks.chain(vectors).chain(never).chain([("level".to_owned(), self.enforceable.clone())]).collect()
    }
}

impl Vector {
    fn word(&self) -> String {
        let short = |word: &str| match word {
            "covered" | "" => String::new(),
            "uncovered" => "**open**".to_owned(),
            other => other.to_owned(),
        };
        let (attach, run) = (short(&self.attach), short(&self.run));
        if attach == run {
            if attach.is_empty() { "closed".to_owned() } else { attach }
        } else {
            let or_closed = |word: String| if word.is_empty() { "closed".to_owned() } else { word };
            format!("attach {}, run {}", or_closed(attach), or_closed(run))
        }
    }
}

fn render(columns: &[Column]) -> String {
    let mut text = format!(
        "<!-- Generated by `{COMMAND}` from what `caracald doctor` says in each machine. An edit by hand makes a test red. -->\n\n\
         # What each kernel covers\n\n\
         Every cell is a live probe on that kernel, in a virtual machine, with the same caracald. \"+ LSM\": the BPF LSM was asked for \
         on the kernel's command line. Ways out are tried at the level that can be enforced; at `network`, the default, those of the level \
         `full` are as on a kernel without the LSM.\n\n"
    );
    text.push_str("| kernel | package | cgroups | level that can be enforced |\n|---|---|---|---|\n");
    for column in columns {
        text.push_str(&format!(
            "| {} | Debian {}, {} | {} | {} |\n",
            column.title(),
            column.suite,
            column.version,
            column.cgroup,
            column.enforceable
        ));
    }
    for (cgroup, title) in [("pure", "Hosts with cgroup v2 alone"), ("hybrid", "Hosts with v1 controllers beside it")] {
        let columns: Vec<&Column> = columns.iter().filter(|column| column.cgroup == cgroup).collect();
        if columns.is_empty() {
            continue;
        }
        text.push_str(&format!("\n## {title}\n\n"));
        table(&mut text, "probe", &columns, |column| {
            column.checks.iter().map(|row| (format!("{} ({})", row.name, need(&row.need)), state(&row.state))).collect()
        });
        if columns.iter().any(|column| !column.vectors.is_empty()) {
            text.push_str("\nWays out, under `attach` and under `run`:\n\n");
            table(&mut text, "way out", &columns, |column| {
                column.vectors.iter().map(|row| (row.name.clone(), row.word())).collect()
            });
        }
        missing(&mut text, &columns);
    }
    never(&mut text, columns);
    text
}

/// What no level covers, on any kernel.
fn never(text: &mut String, columns: &[Column]) {
    let mut lines: Vec<String> = Vec::new();
    for row in columns.iter().flat_map(|column| &column.never) {
        let line = format!("- `{}`: {}\n", row.code, row.means);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if !lines.is_empty() {
        text.push_str("\n## What no level covers\n\n");
        text.push_str(&lines.concat());
    }
}

fn need(word: &str) -> &str {
    match word {
        "required" => "always needed",
        "full" => "for level full",
        other => other,
    }
}

fn state(word: &str) -> String {
    match word {
        "yes" => "yes",
        "no" => "**no**",
        _ => "?",
    }
    .to_owned()
}

/// A table with one column for each kernel; the rows are in the order in which they first appear.
fn table(text: &mut String, what: &str, columns: &[&Column], rows: impl Fn(&Column) -> Vec<(String, String)>) {
    let told: Vec<Vec<(String, String)>> = columns.iter().map(|column| rows(column)).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in told.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let titles: Vec<String> = columns.iter().map(|column| column.title()).collect();
    text.push_str(&format!("| {what} | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(columns.len())));
    for name in names {
        let cell = |rows: &Vec<(String, String)>| {
            rows.iter().find(|(its, _)| its == name).map_or_else(|| "-".to_owned(), |(_, word)| word.clone())
        };
        let cells: Vec<String> = told.iter().map(cell).collect();
        text.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
}

/// What was seen where a probe is not content, and what to do.
fn missing(text: &mut String, columns: &[&Column]) {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for column in columns {
        for row in column.checks.iter().filter(|row| row.state != "yes") {
            let found = if row.found.is_empty() { String::new() } else { format!(": {}", row.found) };
            let line = format!("**{}**{found}. To do: {}", row.name, row.remedy);
            match lines.iter_mut().find(|(its, _)| *its == line) {
                Some((_, titles)) => titles.push(column.title()),
                None => lines.push((line, vec![column.title()])),
            }
        }
    }
    if !lines.is_empty() {
        text.push_str("\nWhat is missing:\n\n");
        for (line, titles) in lines {
            text.push_str(&format!("- {line} ({})\n", titles.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(state: &str) -> Column {
        let row = Row {
            name: "BTF".into(),
            need: "full".into(),
            state: state.into(),
            found: "absent".into(),
            remedy: "another kernel".into(),
        };
        Column {
            series: "6.1".into(),
            release: "6.1.0-56".into(),
            suite: "bookworm".into(),
            version: "6.1.192-2".into(),
            cgroup: "pure".into(),
            bpf_lsm: true,
            enforceable: "network".into(),
            checks: vec![row],
            vectors: vec![Vector { name: "raw".into(), attach: "uncovered".into(), run: "covered".into() }],
            never: vec![Never { code: "namespace_root".into(), means: "root of a namespace".into() }],
        }
    }

    #[test]
    fn what_no_level_covers_is_written_once() {
        let text = render(&[column("yes"), column("no")]);
        assert_eq!(text.matches("- `namespace_root`: root of a namespace\n").count(), 1, "{text}");
        let older = Column { never: Vec::new(), ..column("yes") };
        assert!(!render(std::slice::from_ref(&older)).contains("no level covers"));
        assert_eq!(differences(&[older], &[column("yes")]).len(), 1, "the docs are to be written anew");
    }

    #[test]
    fn the_docs_are_what_was_generated() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let columns: Vec<Column> = serde_json::from_slice(&fs::read(root.join("coverage.json")).unwrap()).unwrap();
        let table = fs::read_to_string(root.join("COVERAGE.md")).unwrap();
        assert_eq!(table, render(&columns), "docs/COVERAGE.md was edited by hand: `{COMMAND}` writes it");
    }

    #[test]
    fn a_kernel_that_says_something_else_is_a_difference() {
        assert!(differences(&[column("yes")], &[column("yes")]).is_empty());
        let found = differences(&[column("yes")], &[column("no")]);
        assert_eq!(found, ["BTF on Linux 6.1 (pure): yes in the docs, no on the kernel"]);
        assert_eq!(differences(&[], &[column("yes")]).len(), 1);
    }

    #[test]
    fn a_table_has_a_cell_for_every_kernel() {
        let mut other = column("no");
        other.series = "5.10".into();
        other.vectors.clear();
        let text = render(&[other, column("yes")]);
        assert!(text.contains("| BTF (for level full) | **no** | yes |"), "{text}");
        assert!(text.contains("| raw | - | attach **open**, run closed |"), "{text}");
        assert!(text.contains("- **BTF**: absent. To do: another kernel (5.10 + LSM)"), "{text}");
    }
}
