//! Tools by name, and hosts that cost money, whatever an operator's own policy says.

use super::*;

fn tool(set: &PolicySet, name: &str) -> Verdict {
    let agent = agent("a");
    let ask = Ask {
        method: Some("POST"),
        path: Some("/mcp"),
        tool: Some(name),
        ..Ask::new(&agent, Action::Tool, "mcp.example", 443)
    };
    set.decide(&ask).verdict
}

#[test]
fn a_rule_names_the_tools_that_it_allows_or_denies() -> Outcome {
    let all = set("[[allow]]\nhosts = [\"mcp.example\"]\n")?;
    assert_eq!(tool(&all, "anything"), allowed());
    let some = set("[[allow]]\nhosts = [\"mcp.example\"]\ntools = [\"read_*\", \"search\"]\n")?;
    for (name, expected) in [
        ("search", allowed()),
        ("read_file", allowed()),
        ("write_file", denied(Reason::PolicyDenied)),
        ("Search", denied(Reason::PolicyDenied)),
    ] {
        assert_eq!(tool(&some, name), expected, "{name}");
    }
    assert_eq!(get(&some, "mcp.example", 443, "/mcp"), allowed(), "asking what tools there are is no call");
    let not = set("[[allow]]\nhosts = [\"mcp.example\"]\n[[deny]]\ntools = [\"delete_*\"]\n")?;
    assert_eq!((tool(&not, "delete_all"), tool(&not, "read")), (denied(Reason::PolicyDenied), allowed()));
    assert_eq!(get(&not, "mcp.example", 443, "/mcp"), allowed(), "a rule about tools denies nothing else");
    Ok(())
}

#[test]
fn no_policy_lets_calls_that_cost_money_pass_unread() -> Outcome {
    let own = "[[mcp]]\nname = \"desk\"\nhost = \"mcp.example\"\nprices = {}\n";
    let cedar = "@mode(\"tcp\") permit (principal, action == Action::\"connect\", resource);";
    let set = with_cedar(own, cedar)??;
    for host in [
        "api.openai.com",
        "eu.api.openai.com",
        "mcp.example",
        "mine.openai.azure.com",
        "us-central1-aiplatform.googleapis.com",
        "bedrock-runtime.us-east-1.amazonaws.com",
        "vpce-1.bedrock-runtime.us-east-1.amazonaws.com",
    ] {
        assert_eq!(on(&set, Action::Connect, host, 443), denied(Reason::PolicyDenied), "{host}");
    }
    for host in ["s3.us-east-1.amazonaws.com", "storage.googleapis.com", "example.com"] {
        assert!(matches!(on(&set, Action::Connect, host, 443), Verdict::Allow(_)), "{host}");
    }
    Ok(())
}
