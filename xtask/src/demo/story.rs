//! The story, step by step. Each step shows a command and what it prints, and fails when it is not as told.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::stage::Stage;

/// Calls after which the budget must have run out.
const MOST_CALLS: usize = 20;

/// A call of 400 tokens under a cap of 400.
const CALL: &str = r#"{"model":"gpt-4o","max_completion_tokens":400,"messages":[{"role":"user","content":"Say hello. [[say=Hello_from_the_stand-in. output=400]]"}]}"#;

/// A handful of calls spends it.
const BUDGET: &str = "0.03 USD";

pub(super) fn tell(caracald: &Path, stand_in: &Path) -> Result<()> {
    let mut stage = Stage::set(caracald, stand_in, BUDGET)?;
    let calls = allowed(&stage)?;
    denied(&stage)?;
    budget(&stage, calls)?;
    killed(&mut stage)?;
    verified(&stage)?;
    println!("\nThat was all of it. Your own agent, the same way:  cargo xtask run -- CMD...");
    Ok(())
}

/// 1. An allowed call, and what it cost.
fn allowed(stage: &Stage) -> Result<usize> {
    stage.say(
        "1. An allowed call",
        "curl knows nothing of Caracal. It calls the provider's real name and gets its answer.",
    );
    let answer = stage.show(&call())?;
    ensure!(answer.contains("[HTTP 200]"), "the call was not answered");
    stage.say("   ... and its cost", "Held at the largest bill that it could cause, charged what it used.");
    stage.spend(1)?;
    Ok(1)
}

/// 2. A host that no rule allows.
fn denied(stage: &Stage) -> Result<()> {
    stage.say("2. A host that no rule allows", "The refusal comes inside TLS, and names what would allow it.");
    let answer = stage.show(&["curl", "-sS", "-m", "30", "-w", STATUS, "https://example.com/"].map(str::to_owned))?;
    ensure!(answer.contains("[HTTP 403]"), "the host was not refused");
    Ok(())
}

/// 3. Calls until the budget has run out.
fn budget(stage: &Stage, mut calls: usize) -> Result<()> {
    let why = format!("The budget is {BUDGET} a day. The call that does not fit is refused before it is sent, once.");
    stage.say("3. A budget runs out", &why);
    loop {
        let answer = stage.run(&call())?;
        if answer.contains("[HTTP 400]") {
            println!("   call {}: {}", calls + 1, answer.trim());
            break;
        }
        ensure!(answer.contains("[HTTP 200]"), "call {}: {answer}", calls + 1);
        calls += 1;
        println!("   call {calls}: answered");
        ensure!(calls < MOST_CALLS, "the budget does not run out");
    }
    let billed = stage.bill()?;
    println!("\n   The provider's own bill: {} calls, {} nano-USD", billed.calls, billed.nano);
    ensure!(billed.calls == calls, "the provider billed {} calls, answered were {calls}", billed.calls);
    stage.spend(calls)?;
    Ok(())
}

/// 4. The daemon is killed, and the door is shut.
fn killed(stage: &mut Stage) -> Result<()> {
    stage.say("4. kill -9", "A governed cgroup, the daemon alive: the connection stands (the answer is a provider's).");
    let alive = stage.reach_from_cgroup()?;
    println!("   {}", alive.text);
    ensure!(alive.connected, "the governed cgroup could not connect while the daemon was there");
    println!("\n   Now every process of the daemon is killed. The kernel programs stay.");
    let pids = stage.kill()?;
    println!("   $ kill -9 {pids}");
    let dead = stage.reach_from_cgroup()?;
    println!("   governed:   {}", dead.text);
    ensure!(!dead.connected, "a governed process connected without the daemon: the door was open");
    let free = stage.reach_ungoverned()?;
    println!("   ungoverned: {} (the network is there)", free.text);
    ensure!(free.connected, "the ungoverned host could not connect either: that proves nothing");
    println!("\n   The daemon is started again and finds its programs:");
    stage.start()?;
    let back = stage.reach_from_cgroup()?;
    println!("   governed:   {}", back.text);
    ensure!(back.connected, "the restarted daemon does not serve");
    Ok(())
}

/// 5. The ledger.
fn verified(stage: &Stage) -> Result<()> {
    stage.say("5. The ledger", "Every decision and charge above is a leaf of a signed Merkle tree.");
    if !stage.ask(&["ledger", "verify"])? {
        bail!("the ledger does not verify");
    }
    Ok(())
}

const STATUS: &str = "\n[HTTP %{http_code}]\n";

fn call() -> Vec<String> {
    [
        "curl",
        "-sS",
        "-m",
        "30",
        "-w",
        STATUS,
        "https://api.openai.com/v1/chat/completions",
        "-H",
        "authorization: Bearer sk-demo",
        "-H",
        "content-type: application/json",
        "-d",
        CALL,
    ]
    .map(str::to_owned)
    .to_vec()
}
