//! What operators see of spend: warnings as a limit comes near, limits for each tool, and sums by tool,
//! host, time and budget's window.

use crate::STAND_IN;
use crate::providers::charged;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use support::daemon::Daemon;
use support::ledger::Record;
use support::netns::Ran;
use support::programs;
use support::report;
use support::scene::{Scene, TOOLS};

fn python(daemon: &Daemon<'_>, script: &str) -> Ran {
    daemon.run(programs::python()).args(["-c", script]).env("OPENAI_API_KEY", "sk-stand-in").ran()
}

/// Calls these tools, one after the other, and prints for each what came of it.
fn tools(names: &[&str]) -> String {
    format!(
        "import asyncio\nfrom mcp import ClientSession\nfrom mcp.client.streamable_http import streamable_http_client\n\
         async def main():\n    async with streamable_http_client('https://mcp.example/mcp') as s, ClientSession(s[0], s[1]) as session:\n\
         \x20       await session.initialize()\n        for name in {names:?}:\n\
         \x20           answer = await session.call_tool(name, {{}})\n            print(name, answer.is_error, (answer.meta or {{}}).get('caracal/denial'))\n\
         asyncio.run(main())\n"
    )
}

const HOSTS: &str = "[[allow]]\nhosts = [\"api.openai.com\", \"mcp.example\"]\n";

#[test]
fn a_budget_warns_at_half_most_and_nearly_all_of_its_limit_once_each() {
    report::plain("money", "warnings at 50, 80 and 95 percent", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        // Twenty calls of a tool at a cent each; of `warn_at` nothing is written.
        let budget = "[[budget]]\nname = \"purse\"\nlimit = \"0.2 USD\"\nwindow = \"total\"\n";
        let mut daemon = Daemon::start(&scene, &format!("{HOSTS}{TOOLS}{budget}"));
        let _ran = python(&daemon, &tools(&["search"; 20])).ok();
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!(charges, bill);
        assert_eq!(bill, [10_000_000; 20]);
        let warned: Vec<&Record> = records.iter().filter(|record| record.kind == "caracal.budget_warning.v1").collect();
        let said = |record: &&Record| {
            let number = |key: &str| record.number(&format!("caracal.budget.{key}")).unwrap_or_default();
            (number("percent"), number("spent_nano_usd"), number("limit_nano_usd"))
        };
        let mut marks: Vec<_> = warned.iter().map(said).collect();
        marks.sort_unstable();
        assert_eq!(
            marks,
            [(50, 100_000_000, 200_000_000), (80, 160_000_000, 200_000_000), (95, 190_000_000, 200_000_000)]
        );
        for record in warned {
            assert_eq!(record.data["caracal.windows"][0]["budget"], "purse");
            let percent = record.number("caracal.budget.percent").unwrap_or_default();
            let sentence = format!("has reached {percent} %");
            assert!(record.text("caracal.message").contains(&sentence), "{:?}", record.data);
        }
        daemon.stop();
    });
}

#[test]
fn each_tool_has_a_limit_of_its_own() {
    report::plain("money", "a limit for each tool", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let budgets = "[[budget]]\nname = \"each\"\nlimit = \"0.02 USD\"\nwindow = \"total\"\nper = \"tool\"\n\
                       [[budget]]\nname = \"all\"\nlimit = \"5 USD\"\nwindow = \"total\"\n";
        // Whatever is denied elsewhere may be called here, so that two tools cost money.
        let tools_of = TOOLS
            .replace("tools = [\"delete_*\"]", "tools = [\"nothing\"]")
            .replace("0.01 USD\" }", "0.000000001 USD\" }");
        let mut daemon = Daemon::start(&scene, &format!("{HOSTS}{tools_of}{budgets}"));
        let script = tools(&["search", "search", "search", "delete_everything"])
            + "import openai\nopenai.OpenAI().chat.completions.create(model='gpt-4o-mini', max_tokens=50, messages=[{'role': 'user', 'content': 'hello'}])\nprint('answered')\n";
        let ran = python(&daemon, &script).ok();
        let refused = "search True {'reason': 'budget_exceeded', 'budget': 'each'}";
        assert_eq!(ran.stdout.matches("search False None").count(), 2, "{}", ran.screen());
        assert!(ran.stdout.contains(refused), "{}", ran.screen());
        assert!(
            ran.stdout.contains("delete_everything False None") && ran.stdout.contains("answered"),
            "{}",
            ran.screen()
        );
        let (_, charges, bill) = charged(&scene, &daemon);
        assert_eq!(charges, bill);
        let rows = daemon.json(&["budgets"]);
        let rows = rows.as_array().expect("rows").iter().filter(|row| row["budget"] == "each");
        let parts: BTreeMap<&str, Option<u64>> =
            rows.filter_map(|row| Some((row["scope"].as_str()?, row["settled_nano_usd"].as_u64()))).collect();
        let wanted = BTreeMap::from([("desk/search", Some(20_000_000)), ("desk/delete_everything", Some(1))]);
        assert_eq!(parts, wanted, "a call of a model has no part of it");
        daemon.stop();
    });
}

/// Two calls of a tool at a cent each, one that costs nothing, and one of a model: its records and its bill, once the ledger has them.
#[track_caller]
fn three_charges(scene: &Scene, daemon: &Daemon<'_>) -> (Vec<Record>, Vec<u64>) {
    let script = tools(&["search", "search", "lookup"])
        + "import openai\nopenai.OpenAI().chat.completions.create(model='gpt-4o-mini', max_tokens=50, messages=[{'role': 'user', 'content': 'hello'}])\n";
    let _ran = python(daemon, &script).ok();
    let (records, charges, bill) = charged(scene, daemon);
    assert_eq!((&charges, bill.len()), (&bill, 3));
    let _verified = daemon.caught_up();
    (records, bill)
}

#[test]
fn spend_is_summed_by_tool_host_and_time() {
    report::case("money", "spend by tool, host, minute, hour and week", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let budget = "[[budget]]\nname = \"purse\"\nlimit = \"5 USD\"\nwindow = \"total\"\n";
        let mut daemon = Daemon::start(&scene, &format!("{HOSTS}{TOOLS}{budget}"));
        let (records, bill) = three_charges(&scene, &daemon);
        let all: u64 = bill.iter().sum();
        let chat = all - 20_000_000;
        let sums = |by: &str| -> Vec<(String, u64, u64)> {
            let rows = daemon.json(&["spend", "--by", by]);
            let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{rows}"));
            let row = |row: &Value| {
                (row[by].as_str().unwrap_or_default().to_owned(), number(&row["calls"]), number(&row["cost"]))
            };
            rows.as_array().expect("rows").iter().map(row).collect()
        };
        let named = |name: &str, calls, cost| (name.to_owned(), calls, cost);
        // What is no tool has no name there. What costs nothing is no charge.
        assert_eq!(sums("tool"), [named("", 1, chat), named("desk/search", 2, 20_000_000)]);
        assert_eq!(sums("host"), [named("api.openai.com", 1, chat), named("mcp.example", 2, 20_000_000)]);
        // By the records' own times.
        for (by, length) in [("minute", 16), ("hour", 13)] {
            let mut wanted: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
            for record in records.iter().filter(|record| record.is_outcome()) {
                let row = wanted.entry(&record.time[..length]).or_default();
                *row = (row.0 + 1, row.1 + record.cost());
            }
            let wanted: Vec<_> = wanted.into_iter().map(|(time, (calls, cost))| named(time, calls, cost)).collect();
            assert_eq!(sums(by), wanted, "{by}");
        }
        let weeks = sums("week");
        assert_eq!(weeks.iter().map(|week| week.2).sum::<u64>(), all, "{weeks:?}");
        let days: Vec<&str> =
            records.iter().filter(|record| record.is_outcome()).map(|record| &record.time[..10]).collect();
        assert!(weeks.iter().all(|week| days.iter().any(|day| week.0.as_str() <= *day)), "{weeks:?} for {days:?}");
        daemon.stop();
        Map::new()
    });
}

#[test]
fn spend_is_summed_by_each_budgets_own_windows() {
    report::plain("money", "spend by budget's window", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let budgets = "[[budget]]\nname = \"purse\"\nlimit = \"5 USD\"\nwindow = \"total\"\n\
                       [[budget]]\nname = \"each\"\nlimit = \"1 USD\"\nwindow = \"month\"\nper = \"tool\"\n\
                       [[budget]]\nname = \"other\"\nlimit = \"1 USD\"\nwindow = \"day\"\nagents = [\"nobody\"]\n";
        let mut daemon = Daemon::start(&scene, &format!("{HOSTS}{TOOLS}{budgets}"));
        let (records, bill) = three_charges(&scene, &daemon);
        let correct = ["budgets", "correct", "--provider", "mcp", "--by=-0.005", "--reason", "the bill"];
        let _done = daemon.command(&correct).ran().ok();
        let _verified = daemon.caught_up();
        let all: u64 = bill.iter().sum();
        let rows = daemon.json(&["spend", "--by", "window"]);
        let row = |row: &Value| {
            let text = |key: &str| row[key].as_str().unwrap_or_else(|| panic!("{rows}")).to_owned();
            let number = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{rows}"));
            ((text("budget"), text("scope"), text("window")), number("cost"), number("charged"))
        };
        let said: Vec<_> = rows.as_array().expect("rows").iter().map(row).collect();
        // The month of the records, or both where they stand on either side of its end.
        let tool = |record: &&Record| record.is_outcome() && record.text("gen_ai.provider.name") == "mcp";
        let months: BTreeMap<&str, u64> = records.iter().filter(tool).fold(BTreeMap::new(), |mut months, record| {
            *months.entry(&record.time[..7]).or_default() += record.cost();
            months
        });
        let (each, purse): (Vec<_>, Vec<_>) = said.into_iter().partition(|((budget, ..), ..)| budget == "each");
        let key = |budget: &str, scope: &str, window: &str| (budget.to_owned(), scope.to_owned(), window.to_owned());
        assert_eq!(purse, [(key("purse", "", "total"), all - 5_000_000, all)], "a budget of nobody here has no window");
        let charged: Vec<_> = each.iter().map(|(key, _, charged)| (key.clone(), *charged)).collect();
        let wanted: Vec<_> =
            months.iter().map(|(month, cost)| (key("each", "desk/search", &format!("month/{month}")), *cost)).collect();
        assert_eq!(charged, wanted, "a call of a model has no part of it");
        assert_eq!(each.iter().map(|row| row.1).sum::<u64>(), 15_000_000);
        // What a window does not tell is said, and is a fault of the command line.
        for asked in [["--agent", "a"], ["--since", "2026-11-24"], ["--by", "agent"]] {
            let ran = daemon.command(&["spend", "--by", "window"]).args(asked).ran();
            assert_eq!((ran.code, ran.stderr.contains("stands alone")), (Some(64), true), "{}", ran.screen());
        }
        let fleet = daemon.command(&["spend", "--fleet", "--by", "window"]).ran();
        assert!(fleet.code == Some(1) && fleet.stderr.contains("without --fleet"), "{}", fleet.screen());
        daemon.stop();
    });
}
