//! What stands in for the link between one agent and control: no TLS and no HTTP, but their troubles.
//!
//! It does what [`link::client`](crate::link::client) and [`link::server`](crate::link::server) do together: dials, again and
//! again, hands over hello and frames, keeps alive, and gives up on silence. Messages of one session take their time, in order;
//! those under way when it breaks are lost, and each side learns of that in its own time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::chance::Chance;
use super::witness::Witness;
use crate::backoff::full_jitter;
use crate::control::sessions::Sessions;
use crate::link::client::{ClientError, Incoming, Lost, RECONNECT, discarding};
use crate::link::heard::Heard;
use crate::link::server::{Control, SessionEnds};
use crate::link::tls::NodeIdentity;
use crate::link::{Down, KEEP_ALIVE, SILENCE, Up};

/// What a dial to nobody takes, and a welcome that does not come; as the link has it.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
const WELCOME_WITHIN: Duration = Duration::from_secs(60);

/// The line between a machine and control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Something gets through.
    pub(super) open: bool,
    /// Counts the connections that were broken while it was open.
    pub(super) breaks: u64,
    /// What a message takes at most, in milliseconds.
    pub(super) delay_max: u64,
}

/// One agent's link.
pub(super) struct Wire {
    pub(super) machine: usize,
    pub(super) node: NodeIdentity,
    /// Where control is, if it is.
    pub(super) door_rx: watch::Receiver<Option<Sessions>>,
    pub(super) line_rx: watch::Receiver<Line>,
    pub(super) chance: Chance,
    pub(super) witness: Arc<Mutex<Witness>>,
}

/// Control's ends of a session. When they are let go, control learns of it: at once where the line is open, otherwise by
/// silence.
struct FarEnds {
    ends: Option<SessionEnds>,
    line_rx: watch::Receiver<Line>,
}

impl FarEnds {
    /// Control learns after `delay` that nobody is there any more.
    fn linger(mut self, delay: Duration) {
        linger(self.ends.take(), delay);
    }
}

impl Drop for FarEnds {
    fn drop(&mut self) {
        if !self.line_rx.borrow().open {
            linger(self.ends.take(), SILENCE);
        }
    }
}

fn linger(ends: Option<SessionEnds>, delay: Duration) {
    let Some(ends) = ends else { return };
    tokio::spawn(async move {
        tokio::select! {
            () = sleep(delay) => {}
            () = ends.up_tx.closed() => {}
        }
    });
}

impl Wire {
    /// Runs until the agent is gone.
    pub(super) async fn run(mut self, mut up_rx: mpsc::Receiver<Up>, incoming_tx: mpsc::Sender<Incoming>) {
        let mut attempt = 0;
        loop {
            let Ok(why) = self.once(&mut attempt, &mut up_rx, &incoming_tx).await else { return };
            let random = u32::try_from(self.chance.number() >> 32).unwrap();
            let pause = full_jitter(attempt, random, RECONNECT);
            attempt += 1;
            let lost_and_waited = async {
                incoming_tx
                    .send(Incoming::Lost(Lost { why: why.to_owned(), refused: false }))
                    .await
                    .map_err(|_| ClientError::Stopping)?;
                sleep(pause).await;
                Ok(())
            };
            if discarding(&mut up_rx, lost_and_waited).await.is_err() {
                return;
            }
        }
    }

    /// One session, and why it ended.
    async fn once(
        &mut self,
        attempt: &mut u32,
        up_rx: &mut mpsc::Receiver<Up>,
        incoming_tx: &mpsc::Sender<Incoming>,
    ) -> Result<&'static str, ClientError> {
        self.line_rx.borrow_and_update();
        self.door_rx.borrow_and_update();
        let mut far = match discarding(up_rx, self.open(incoming_tx)).await {
            Ok(Ok(far)) => far,
            Ok(Err(why)) => return Ok(why),
            Err(error) => return Err(error),
        };
        *attempt = 0;
        let ends = far.ends.as_mut().expect("they were just opened");
        let (why, agent_first) = self.session(ends, up_rx, incoming_tx).await?;
        if agent_first {
            let late = self.chance.millis(0..50_000);
            far.linger(late);
        } else if why == "the connection broke" {
            // Control knows already; the agent talks to nobody for a while.
            drop(far);
            let late = self.chance.millis(0..50_000);
            let later = async {
                sleep(late).await;
                Ok(())
            };
            discarding(up_rx, later).await?;
        }
        Ok(why)
    }

    /// Dials, says hello, and waits for the first frame, which the session hands on.
    async fn open(
        &mut self,
        incoming_tx: &mpsc::Sender<Incoming>,
    ) -> Result<Result<FarEnds, &'static str>, ClientError> {
        self.delay().await;
        if !self.line_rx.borrow().open {
            sleep(CONNECT_WITHIN).await;
            return Ok(Err("cannot reach control"));
        }
        let Some(sessions) = self.door_rx.borrow().clone() else { return Ok(Err("nobody listens")) };
        let (hello_tx, hello_rx) = oneshot::channel();
        incoming_tx.send(Incoming::Dialling(hello_tx)).await.map_err(|_| ClientError::Stopping)?;
        let hello = hello_rx.await.map_err(|_| ClientError::Stopping)?;
        self.witness().hello(self.machine, &hello);
        self.delay().await;
        if !self.line_rx.borrow().open || self.door_rx.has_changed().unwrap_or(true) {
            return Ok(Err("the connection broke"));
        }
        match timeout(WELCOME_WITHIN, sessions.connected(self.node.clone(), hello)).await {
            Ok(Ok(ends)) => Ok(Ok(FarEnds { ends: Some(ends), line_rx: self.line_rx.clone() })),
            Ok(Err(_)) => Ok(Err("control refused to open a session")),
            Err(_) => Ok(Err("no welcome")),
        }
    }

    /// Carries messages until the session ends; says why it did, and whether the agent learnt of it before control.
    async fn session(
        &mut self,
        ends: &mut SessionEnds,
        up_rx: &mut mpsc::Receiver<Up>,
        incoming_tx: &mpsc::Sender<Incoming>,
    ) -> Result<(&'static str, bool), ClientError> {
        let (at_agent, at_control) = (Heard::now(), Heard::now());
        let mut broken_rx = self.line_rx.clone();
        let breaks = broken_rx.borrow_and_update().breaks;
        let mut door_rx = self.door_rx.clone();
        let agent_first = self.chance.one_in(2);
        let (up_chance, down_chance) = (self.chance.split(), self.chance.split());
        let SessionEnds { up_tx, down_rx } = ends;
        let up = Way { line_rx: self.line_rx.clone(), chance: up_chance, heard: at_control.clone() };
        let down = Way { line_rx: self.line_rx.clone(), chance: down_chance, heard: at_agent.clone() };
        tokio::select! {
            biased;
            // A dead process's connections are reset by its system.
            _ = door_rx.changed() => Ok(("control ended the session", false)),
            _ = broken_rx.wait_for(|line| line.breaks != breaks) => Ok(("the connection broke", agent_first)),
            end = up.send(up_rx, up_tx, &at_agent) => end.map(|why| (why, false)),
            end = down.receive(down_rx, incoming_tx, (self.machine, &self.witness)) => end.map(|why| (why, false)),
            () = at_agent.silent_for(SILENCE) => Ok(("nothing was heard of control", true)),
            () = at_control.silent_for(SILENCE) => Ok(("the connection broke", false)),
        }
    }

    async fn delay(&mut self) {
        let most = self.line_rx.borrow().delay_max;
        sleep(self.chance.millis(0..most)).await;
    }

    fn witness(&self) -> std::sync::MutexGuard<'_, Witness> {
        self.witness.lock().unwrap()
    }
}

/// One direction of a session.
struct Way {
    line_rx: watch::Receiver<Line>,
    chance: Chance,
    /// At its end.
    heard: Heard,
}

impl Way {
    /// Waits until a message has come through.
    async fn pass(&mut self) {
        let most = self.line_rx.borrow().delay_max;
        sleep(self.chance.millis(0..most)).await;
        // The world keeps the sender as long as the machine.
        drop(self.line_rx.wait_for(|line| line.open).await);
        self.heard.note();
    }

    async fn send(
        mut self,
        up_rx: &mut mpsc::Receiver<Up>,
        up_tx: &mpsc::Sender<Up>,
        at_agent: &Heard,
    ) -> Result<&'static str, ClientError> {
        let mut ticks = interval(KEEP_ALIVE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Both receive without loss when dropped.
            let up = tokio::select! {
                up = up_rx.recv() => up.ok_or(ClientError::Stopping)?,
                _ = ticks.tick() => Up::KeepAlive,
            };
            self.pass().await;
            if up == Up::KeepAlive {
                // Its answer comes back at once.
                at_agent.note();
                drop(up_tx.try_send(up));
            } else if up_tx.send(up).await.is_err() {
                return Ok("control ended the session");
            }
        }
    }

    async fn receive(
        mut self,
        down_rx: &mut mpsc::Receiver<crate::link::Frame>,
        incoming_tx: &mpsc::Sender<Incoming>,
        (machine, witness): (usize, &Arc<Mutex<Witness>>),
    ) -> Result<&'static str, ClientError> {
        while let Some(frame) = down_rx.recv().await {
            self.pass().await;
            let down = frame.down();
            match &down {
                Down::Permit(permit) => witness.lock().unwrap().permit(machine, permit),
                Down::Answers(answers) => witness.lock().unwrap().answers(machine, answers),
                _ => {}
            }
            incoming_tx.send(Incoming::Down(down)).await.map_err(|_| ClientError::Stopping)?;
        }
        Ok("control ended the session")
    }
}
