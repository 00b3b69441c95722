//! `caracald prices`: what is in the price book, how another table differs, a book made from one, and what exchanges cost.

mod bill;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::app::{meter, price_book_text};
use crate::clock::Clock;
use crate::config::{Config, Glob};
use crate::meter::{Listing, PriceBook};

/// Show, compare and import prices.
#[derive(Args, Debug)]
pub struct PricesArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the price book in force: dollars per 1,000,000 tokens.
    Show(ShowArgs),
    /// Compare the price book in force with another one, or with LiteLLM's table. Exits 1 when they differ.
    Diff(DiffArgs),
    /// Make a price book of LiteLLM's table (`model_prices_and_context_window.json`), on standard output.
    ///
    /// Only chat and embedding models whose longest input and output the table states, and whose price it has as one per token
    /// that holds wherever a call is sent. What is not taken stands at the end, as comments, with the reason. Images are refused
    /// with such a book until you add `image_tokens`.
    Import(ImportArgs),
    /// Price recorded requests and answers offline, by the price book in force: one JSON line in, one out.
    ///
    /// Says what each is held at and charged: to compare prices with a provider's own bill before you trust them. A line has `host`, `path`, `headers`, `request`
    /// (the body as text), `status`, `answer_headers` and `answer` (base64). Nothing is sent.
    Bill(bill::BillArgs),
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// Only models that match: `gpt-*`.
    #[arg(value_parser = pattern)]
    model: Vec<Glob>,
    /// The book's own text, to edit and to name in `[prices] file`.
    #[arg(long, conflicts_with_all = ["json", "model"])]
    toml: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct DiffArgs {
    /// A price book (TOML), or LiteLLM's table (JSON).
    file: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ImportArgs {
    /// LiteLLM's table.
    file: PathBuf,
    /// Only models that match: `gpt-*`; may be given more than once.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    model: Vec<Glob>,
}

fn pattern(text: &str) -> Result<Glob, String> {
    Glob::try_from(text.to_owned())
}

/// Runs the verb.
///
/// # Errors
/// When a file cannot be read, or is no table of prices.
pub fn run(args: &PricesArgs, config: &Config) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Show(args) => show(args, config),
        Verb::Diff(args) => diff(args, config),
        Verb::Import(args) => import(args),
        Verb::Bill(args) => bill::run(args, &meter(config)?),
    }
}

fn show(args: &ShowArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let text = price_book_text(config)?;
    if args.toml {
        print!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let book = PriceBook::parse(&text)?;
    let listing = Listing::parse(&text)?.only(&args.model);
    if args.json {
        println!("{}", serde_json::to_string(&listing.models)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", table(&listing));
    let age = book.age_days(Clock::system().now()).map_or_else(String::new, |days| format!(", {days} days old"));
    println!("price book {}{age}; dollars per 1,000,000 tokens", book.id());
    Ok(if listing.models.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn table(listing: &Listing) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["PROVIDER", "MODEL", "TIER", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "LONGEST OUTPUT"]);
    for model in &listing.models {
        for rates in &model.rates {
            let long = if rates.above == 0 { String::new() } else { format!(", input > {}", rates.above) };
            let or_input = |price: &Option<String>| price.clone().unwrap_or_else(|| rates.input.clone());
            table.add_row([
                model.provider.clone(),
                model.names.first().cloned().unwrap_or_default(),
                format!("{}{long}", rates.tier),
                rates.input.clone(),
                or_input(&rates.cache_read),
                or_input(&rates.cache_write),
                rates.output.clone(),
                model.max_output.to_string(),
            ]);
        }
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn diff(args: &DiffArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let own = Listing::parse(&price_book_text(config)?)?;
    let difference = own.difference(&read(&args.file)?);
    if args.json {
        println!("{}", serde_json::to_string(&difference)?);
    } else {
        for change in &difference.changed {
            println!("{}: {} {} -> {}", change.model, change.what, change.old, change.new);
        }
        for name in &difference.removed {
            println!("{name}: only in the book in force");
        }
        for row in &difference.not_compared {
            println!("{}: not compared: {}", row.model, row.why);
        }
        println!(
            "{} values changed, {} models only in the book in force, {} not compared, {} only in {}",
            difference.changed.len(),
            difference.removed.len(),
            difference.not_compared.len(),
            difference.added.len(),
            args.file.display()
        );
    }
    let same = difference.changed.is_empty() && difference.removed.is_empty() && difference.added.is_empty();
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let listing = read(&args.file)?.only(&args.model);
    anyhow::ensure!(!listing.models.is_empty(), "{}: no model in it can be priced", args.file.display());
    let today = today();
    let about = format!(
        "Made by `caracald prices import` from {} on {today}.\n\
         The facts are LiteLLM's; `source` is the page that its table names. Check what you pay for against it.",
        args.file.display()
    );
    let text = listing.to_book(&today, &about);
    // What is printed can be put into force, or is not printed.
    PriceBook::parse(&text)?;
    print!("{text}");
    for (why, names) in listing.left_out() {
        eprintln!("not imported: {}: {why}", names.len());
    }
    eprintln!(
        "{} models; put it into force with [prices] file = \"...\" and `caracald policy reload`",
        listing.models.len()
    );
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> anyhow::Result<Listing> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Listing::parse(&text).with_context(|| path.display().to_string())
}

/// Today, in UTC.
fn today() -> String {
    let nanos = i128::from(Clock::system().now().0);
    let now = jiff::Timestamp::from_nanosecond(nanos).unwrap_or_default();
    now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d").to_string()
}
