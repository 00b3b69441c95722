//! Orders of the keeper, obeyed one at a time on a thread of their own.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{App, elsewhere, parting, refusals};
use crate::agent::CgroupId;
use crate::event::{Data, Detail, Draft, Kind};
use crate::keeper::frame;
use crate::keeper::listeners::Listeners;
use crate::keeper::order::{Answer, CorrectionAsked, Order};

/// Starts obeying. When the keeper is gone the process ends at once: it would be killed anyway, and nobody would shut
/// the door behind it.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn obey(mut stream: UnixStream, app: Arc<App>) -> std::io::Result<()> {
    let runtime = Handle::current();
    std::thread::Builder::new().name("orders".to_owned()).spawn(move || {
        while let Ok((order, descriptors)) = frame::read_with::<Order>(&mut stream) {
            let answer = runtime.block_on(execute(&app, order, descriptors));
            if frame::write(&mut stream, &answer).is_err() {
                break;
            }
        }
        if !app.stopping.load(Ordering::Acquire) {
            tracing::error!("The keeper is gone; the data path ends.");
            app.lease.close();
            std::process::abort();
        }
    })?;
    Ok(())
}

async fn execute(app: &Arc<App>, order: Order, descriptors: Vec<OwnedFd>) -> Answer {
    match order {
        Order::Listen { netns } => {
            let listeners =
                Listeners::from_descriptors(descriptors).ok_or("the listeners did not come with the order")?;
            elsewhere::listen(app, netns, listeners).map(|()| Value::Null).map_err(|error| error.to_string())
        }
        Order::Unlisten { netns } => {
            elsewhere::unlisten(app, netns);
            Ok(Value::Null)
        }
        Order::Admit(agent) => {
            if !*app.begun.borrow() && !app.predecessors.any() {
                app.stack.tally().began_before(agent.cgroup);
            }
            app.gate.roster.admit(agent);
            Ok(Value::Null)
        }
        Order::Dismiss(id) => {
            app.gate.roster.dismiss(id);
            app.stack.tally().forget(id);
            app.stack.forget_names(id);
            Ok(Value::Null)
        }
        Order::Serve => {
            app.begun.send_replace(true);
            Ok(Value::Null)
        }
        Order::KernelRefusals(refused) => refusals::record(app, refused).await,
        Order::KernelTold { since } => refusals::told(app, since).await,
        Order::Heartbeat(counts) => {
            if app.stages.publisher.is_none() {
                return Ok(Value::Null);
            }
            append(app, Kind::Heartbeat, Data { kernel: Some(counts), ..Data::default() }, Detail::default()).await
        }
        Order::Lifecycle(message) => {
            let data = Data { message: Some(message), ..Data::default() };
            append(app, Kind::Lifecycle, data, Detail::default()).await
        }
        Order::Reload => {
            let (hash, old) = app.stages.reload(&app.stack)?;
            if let Some(message) = old {
                let price_book = Some(app.stages.meter.book().id());
                let data = Data { message: Some(message), price_book, ..Data::default() };
                append(app, Kind::Lifecycle, data, Detail::default()).await?;
            }
            Ok(Value::String(hash.to_string()))
        }
        Order::Status => Ok(status(app)),
        Order::Summary(id) => summary(app, id),
        Order::Events(query) => app.stages.events(&query).await,
        Order::Spend { agents } => app.stages.spend(agents).await,
        Order::Budgets { agents } => Ok(app.stages.budgets(agents.as_deref())),
        Order::Correct { asked, uid } => correct(app, &asked, uid).await,
        Order::Erase { agent } => erase(app, &agent).await,
        Order::Stop => {
            stop(app);
            Ok(Value::Null)
        }
        Order::HandOver => {
            hand_over(app);
            Ok(Value::Null)
        }
        Order::Part => {
            let road = descriptors.into_iter().next().ok_or("the road did not come with the order")?;
            let parted = parting::part(app, road).await;
            app.stop.send_replace(true);
            parted.map(|()| Value::Null)
        }
    }
}

/// A refusal that was remembered may not be right any more.
async fn correct(app: &App, asked: &CorrectionAsked, uid: u32) -> Answer {
    let answer = app.stages.correct(asked, uid).await.map_err(|error| error.to_string())?;
    app.stack.forget_refusals();
    Ok(answer)
}

/// The key goes from the disk and from memory; the next record of the agent makes a new one.
async fn erase(app: &App, agent: &str) -> Answer {
    let erased = app.stages.journal.scribe().keys().erase(agent).map_err(|error| error.to_string())?;
    if erased {
        let data = Data { message: Some(format!("the details of agent {agent} were erased")), ..Data::default() };
        append(app, Kind::Lifecycle, data, Detail::default()).await?;
    }
    Ok(Value::Bool(erased))
}

/// Shuts the door; what is open may end.
fn stop(app: &App) {
    app.stopping.store(true, Ordering::Release);
    app.lease.close();
    app.stop.send_replace(true);
}

/// Takes nothing new: whoever comes waits in the listening sockets for the next data path. What is open may end.
fn hand_over(app: &App) {
    app.handing_over.store(true, Ordering::Release);
    app.stopping.store(true, Ordering::Release);
    app.front.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    app.elsewhere.leave();
    app.stack.leave();
}

async fn append(app: &App, kind: Kind, data: Data, detail: Detail) -> Answer {
    let draft = Draft { kind, at: app.stages.clock.now(), data: data.into(), detail };
    app.stages.journal.append(draft).await.map(|()| Value::Null).map_err(|error| error.to_string())
}

fn status(app: &App) -> Value {
    let telemetry = &app.gate.telemetry;
    let ledger = app.stages.ledger.progress();
    let (used, limit) = app.stages.journal.tail().bytes();
    let untrusting = app.stack.trust().broken_off();
    let (most, configured) = app.gate.limits.most();
    json!({
        "connections_most": most,
        "connections_configured": configured,
        "connections": telemetry.connections.load(Ordering::Relaxed),
        "open": telemetry.open.load(Ordering::Relaxed),
        "requests": telemetry.requests.load(Ordering::Relaxed),
        "refusals": telemetry.refusals.load(Ordering::Relaxed),
        "policy": &*app.stages.policy.current().hash(),
        "policy_error": app.stages.trouble(),
        "price_book": &*app.stages.meter.book().id(),
        "price_book_days": app.stages.meter.book().age_days(app.stages.clock.now()),
        "journal": { "bytes": used, "limit": limit, "failure": app.stages.journal.tail().failure() },
        "ledger": { "size": ledger.size, "checkpoint": ledger.checkpoint, "trouble": ledger.trouble },
        "kafka": app.stages.publisher.as_ref().map(crate::bus::publish::Publisher::progress),
        "escrow": app.stages.escrow.as_ref().map(crate::escrow::Refill::progress),
        "budgets": app.stages.budgets(None),
        "untrusting": untrusting,
        "namespaces": app.elsewhere.count(),
        "predecessors": app.predecessors.count(),
    })
}

/// What `run` says at its end.
fn summary(app: &App, id: CgroupId) -> Answer {
    let agent = app.gate.roster.agent(id).ok_or("the agent is not known")?;
    Ok(app.stack.tally().summary(id, agent.learn))
}
