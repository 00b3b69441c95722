//! The CSV of OpenAI's dashboard and of Anthropic's Console, and a plain one of one's own. Columns are found by their names.

use super::{Amount, Billed, Export, ExportError, Line, Report, csv, day, day_of_seconds};

/// The columns of a form, by what they are. An empty name is a column that the form does not have.
struct Form {
    name: &'static str,
    provider: &'static str,
    day: &'static str,
    /// The day's column has Unix seconds.
    seconds: bool,
    model: &'static str,
    key: &'static str,
    workspace: &'static str,
    requests: &'static str,
    /// Input tokens: all of them, or those in no cache, to which the cache's are added then.
    input: &'static str,
    uncached: &'static str,
    cache_read: &'static str,
    cache_writes: [&'static str; 2],
    output: &'static str,
    amount: &'static str,
    currency: &'static str,
}

const NONE: Form = Form {
    name: "",
    provider: "",
    day: "",
    seconds: false,
    model: "",
    key: "",
    workspace: "",
    requests: "",
    input: "",
    uncached: "",
    cache_read: "",
    cache_writes: ["", ""],
    output: "",
    amount: "",
    currency: "",
};

/// Each is known by its day's column together with its input or its amount.
const FORMS: [Form; 5] = [
    Form {
        name: "OpenAI's costs (dashboard)",
        provider: "openai",
        day: "start_time",
        seconds: true,
        model: "line_item",
        key: "api_key_id",
        workspace: "project_id",
        amount: "amount_value",
        currency: "amount_currency",
        ..NONE
    },
    Form {
        name: "OpenAI's usage (dashboard)",
        provider: "openai",
        day: "start_time",
        seconds: true,
        model: "model",
        key: "api_key_id",
        workspace: "project_id",
        requests: "num_model_requests",
        input: "input_tokens",
        cache_read: "input_cached_tokens",
        cache_writes: ["input_cache_write_tokens", ""],
        output: "output_tokens",
        ..NONE
    },
    Form {
        name: "Anthropic's usage (Console)",
        provider: "anthropic",
        day: "usage_date_utc",
        model: "model_version",
        key: "api_key",
        workspace: "workspace",
        uncached: "usage_input_tokens_no_cache",
        cache_read: "usage_input_tokens_cache_read",
        cache_writes: ["usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h"],
        output: "usage_output_tokens",
        ..NONE
    },
    Form {
        name: "Anthropic's costs (Console)",
        provider: "anthropic",
        day: "usage_date_utc",
        model: "model",
        key: "api_key",
        workspace: "workspace",
        amount: "cost_usd",
        ..NONE
    },
    Form {
        name: "a plain table",
        day: "day",
        model: "model",
        key: "key",
        workspace: "workspace",
        requests: "requests",
        input: "input_tokens",
        cache_read: "cache_read_tokens",
        cache_writes: ["cache_write_tokens", ""],
        output: "output_tokens",
        amount: "amount_usd",
        ..NONE
    },
];

pub(super) fn read(text: &str) -> Result<Export, ExportError> {
    let mut rows = csv::rows(text)?.into_iter();
    let Some((_, header)) = rows.next() else { return Err(ExportError::Unknown("it is empty".to_owned())) };
    let header: Vec<String> = header.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    let twice = |(at, name): (usize, &String)| !name.is_empty() && header.iter().take(at).any(|known| known == name);
    if header.iter().enumerate().any(twice) {
        return Err(ExportError::Unknown("a column stands twice in its header".to_owned()));
    }
    let has = |name: &str| !name.is_empty() && header.iter().any(|known| known == name);
    let fits = |form: &&Form| {
        let told = [form.amount, form.input, form.uncached].into_iter().any(has);
        has(form.day) && told && (!form.provider.is_empty() || has("provider"))
    };
    let Some(form) = FORMS.iter().find(fits) else {
        let shown: String = header.join(",").chars().filter(|shown| !shown.is_control()).take(120).collect();
        return Err(ExportError::Unknown(format!("its columns are {shown:?}")));
    };
    let (mut export, mut report) = (Export { form: form.name, ..Export::default() }, Report::default());
    for (line, fields) in rows {
        let row = Reader { form, header: &header, line, fields: &fields };
        // A field too few or too many moves all that follow it: what stands under a name would be another thing.
        if fields.len() != header.len() {
            return Err(row.fault(format!("it has {} fields, and the header {}", fields.len(), header.len())));
        }
        row.take(&mut report)?;
    }
    export.take(report)?;
    Ok(export)
}

struct Reader<'a> {
    form: &'a Form,
    header: &'a [String],
    line: usize,
    fields: &'a [String],
}

impl Reader<'_> {
    fn take(&self, report: &mut Report) -> Result<(), ExportError> {
        let form = self.form;
        let begins = self.text(form.day);
        let day = if form.seconds { begins.parse().ok().and_then(day_of_seconds) } else { day(begins) };
        let day = day.ok_or_else(|| {
            let how = if form.seconds { "in Unix seconds" } else { "like 2026-11-24" };
            self.fault(format!("{begins:?} is no day; write it {how}"))
        })?;
        let provider = if form.provider.is_empty() {
            self.text("provider").to_ascii_lowercase()
        } else {
            form.provider.to_owned()
        };
        if provider.is_empty() {
            return Err(self.fault("it names no provider".to_owned()));
        }
        report.places.insert((provider.clone(), day.clone()));
        let mut written = None;
        for name in form.cache_writes {
            if let Some(more) = self.count(name)? {
                written = Some(u64::saturating_add(written.unwrap_or(0), more));
            }
        }
        let cache_read = self.count(form.cache_read)?;
        let input = match self.count(form.uncached)? {
            None => self.count(form.input)?,
            Some(uncached) => Some(Billed::with_cache(uncached, cache_read, written)),
        };
        let billed = Billed {
            requests: self.count(form.requests)?,
            input,
            cache_read,
            cache_write: written,
            output: self.count(form.output)?,
            amount: self.amount()?,
        };
        if billed == Billed::default() {
            // A day on which nothing was billed.
            return Ok(());
        }
        let model = self.text(form.model);
        let model = if form.model == "line_item" { of_line_item(model) } else { model.to_owned() };
        let (key, workspace) = (self.text(form.key).to_owned(), self.text(form.workspace).to_owned());
        report.lines.push(Line { day, provider, model, key, workspace, billed });
        Ok(())
    }

    fn text(&self, name: &str) -> &str {
        let at = self.header.iter().position(|known| known == name && !name.is_empty());
        at.and_then(|at| self.fields.get(at)).map_or("", |field| field.trim())
    }

    /// A count: whole, also where it is written as `3.0`. Empty is not told.
    fn count(&self, name: &str) -> Result<Option<u64>, ExportError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let whole = text
            .split_once('.')
            .map_or(Some(text), |(whole, rest)| rest.bytes().all(|byte| byte == b'0').then_some(whole));
        let count = whole.and_then(|whole| whole.parse().ok());
        count.map(Some).ok_or_else(|| self.fault(format!("{name}: {text:?} is no count")))
    }

    fn amount(&self) -> Result<Option<Amount>, ExportError> {
        let text = self.text(self.form.amount);
        if text.is_empty() {
            return Ok(None);
        }
        let currency = self.text(self.form.currency);
        if !currency.is_empty() && !currency.eq_ignore_ascii_case("usd") {
            return Err(ExportError::Currency { at: format!("line {}", self.line), currency: currency.to_owned() });
        }
        let amount = Amount::parse(text);
        amount.map(Some).ok_or_else(|| self.fault(format!("{}: {text:?} is no amount", self.form.amount)))
    }

    fn fault(&self, why: String) -> ExportError {
        ExportError::Row { at: format!("line {}", self.line), why }
    }
}

/// The model of OpenAI's line item: `gpt-4o-2024-08-06, input` is about `gpt-4o-2024-08-06`.
pub(super) fn of_line_item(item: &str) -> String {
    item.split(',').next().unwrap_or(item).trim().to_owned()
}
