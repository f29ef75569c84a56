//! What this node and control have said to each other in the session that is open.
//!
//! It owns the queue of what is still to be said and what only holds within the session: what was asked for, what was
//! granted, which verdicts control knows. It is told what to say by the roster and decides nothing. Without a control
//! endpoint it is never open, and everything said to it is dropped.
//!
//! ```text
//! Closed ──hello──▶ Greeted ──welcome──▶ Open ──lost──▶ Closed
//! ```
//!
//! The hello tells everything there is at that moment. What changes from then on is queued, and passed on once control
//! has said welcome.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::sync::mpsc;

use crate::link::{Ack, Ask, EventReport, Needs, ObjectRef, Permit, Reception, Up, Verdict};
use crate::model::{Incumbent, RevisionHash, Uid};

/// How many messages may wait; beyond that, events are dropped.
const QUEUE_MAX: usize = 256;
/// How many different events are counted up instead of being told as new ones.
const EVENTS_KEPT: usize = 128;
/// How many pods are known to be gone; control has the last report of one long before as many others have gone.
const GONE_KEPT: usize = 1024;

/// How far the session has come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Closed,
    /// The hello is said.
    Greeted,
    /// Control said welcome, and whether this node may go on.
    Open(Reception),
}

pub(super) struct Session {
    up_tx: Option<mpsc::Sender<Up>>,
    stage: Stage,
    /// A manifest of this session was taken over wholly.
    in_step: bool,
    /// Control has said which reports it lacks of those that the hello was short about.
    knows_wanted: bool,
    queue: VecDeque<Up>,
    /// Pods whose report control has not got.
    unreported: BTreeSet<Uid>,
    /// Pods that have gone in this session, the latest last.
    gone: VecDeque<Uid>,
    verdicts: HashMap<Uid, Verdict>,
    /// The objects that control was asked for.
    needed: BTreeSet<ObjectRef>,
    /// For which revision, and what would make way for it.
    asked: HashMap<Uid, (RevisionHash, Incumbent)>,
    granted: HashMap<Uid, Permit>,
    /// The last events, oldest first.
    events: VecDeque<EventReport>,
}

impl Session {
    /// A session over `up_tx`; none where there is no control endpoint.
    pub(super) fn new(up_tx: Option<mpsc::Sender<Up>>) -> Self {
        Self {
            up_tx,
            stage: Stage::Closed,
            in_step: false,
            knows_wanted: false,
            queue: VecDeque::new(),
            unreported: BTreeSet::new(),
            gone: VecDeque::new(),
            verdicts: HashMap::new(),
            needed: BTreeSet::new(),
            asked: HashMap::new(),
            granted: HashMap::new(),
            events: VecDeque::new(),
        }
    }

    /// The hello is about to be said: all there is now is in it.
    pub(super) fn greeted(&mut self) {
        self.closed();
        self.stage = Stage::Greeted;
    }

    /// Control said welcome.
    pub(super) fn opened(&mut self, reception: Reception) {
        // A node on hold is not asked for reports.
        self.knows_wanted = matches!(reception, Reception::Hold { .. });
        self.stage = Stage::Open(reception);
    }

    /// The first manifest comes after what control asks for at the beginning.
    pub(super) fn manifest_came(&mut self) {
        self.knows_wanted = true;
    }

    /// Everything that held within the session is void.
    pub(super) fn closed(&mut self) {
        self.stage = Stage::Closed;
        self.in_step = false;
        self.knows_wanted = false;
        self.queue.clear();
        self.unreported.clear();
        self.gone.clear();
        self.verdicts.clear();
        self.needed.clear();
        self.asked.clear();
        self.granted.clear();
    }

    /// A manifest of this session is taken over wholly.
    pub(super) fn came_into_step(&mut self) {
        self.in_step = true;
    }

    /// Whether this node has all that control had told it by the beginning of the session.
    pub(super) fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// Whether new desired state and deletions may be taken.
    pub(super) fn takes_intent(&self) -> bool {
        matches!(self.stage, Stage::Open(Reception::Accepted | Reception::AdoptOnly(_)))
    }

    /// Whether permits may be asked for and taken.
    pub(super) fn takes_permits(&self) -> bool {
        self.stage == Stage::Open(Reception::Accepted)
    }

    /// Whether control said welcome.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Why this node may not go on as usual; none if it may.
    pub(super) fn hold(&self) -> Option<&str> {
        match &self.stage {
            Stage::Open(Reception::AdoptOnly(why) | Reception::Hold { message: why, .. }) => Some(why),
            _ => None,
        }
    }

    /// Queues a message.
    pub(super) fn say(&mut self, up: Up) {
        if self.stage != Stage::Closed && (self.queue.len() < QUEUE_MAX || !matches!(up, Up::Events(_))) {
            self.queue.push_back(up);
        }
    }

    /// Marks a pod's report as changed.
    pub(super) fn pod_changed(&mut self, pod: &Uid) {
        if self.stage != Stage::Closed {
            self.unreported.insert(pod.clone());
        }
    }

    /// Nothing is left of a pod, which control is about to be told.
    pub(super) fn pod_gone(&mut self, pod: &Uid) {
        if self.stage != Stage::Closed {
            self.gone.drain(..(self.gone.len() + 1).saturating_sub(GONE_KEPT));
            self.gone.push_back(pod.clone());
        }
    }

    /// Whether a pod has gone in this session: what control says of it, it said before it had heard.
    pub(super) fn is_gone(&self, pod: &Uid) -> bool {
        self.gone.contains(pod)
    }

    /// Whether control was told all there is of a pod.
    pub(super) fn has_reported(&self, pod: &Uid) -> bool {
        self.knows_wanted && !self.unreported.contains(pod)
    }

    /// Takes the pods whose reports are to be said now, `most` of them; none while they would only wait in the queue. Those that
    /// cannot be told yet wait.
    pub(super) fn take_unreported(&mut self, most: usize, can_be_told: impl Fn(&Uid) -> bool) -> Vec<Uid> {
        if !self.is_open() || self.queue.len() >= QUEUE_MAX / 2 {
            return Vec::new();
        }
        self.unreported.extract_if(.., |pod| can_be_told(pod)).take(most).collect()
    }

    /// Tells a verdict unless control knows it already.
    pub(super) fn verdict(&mut self, verdict: Verdict) {
        if self.stage != Stage::Closed && self.verdicts.get(&verdict.daemonset) != Some(&verdict) {
            self.say(Up::Verdicts(vec![verdict.clone()]));
            self.verdicts.insert(verdict.daemonset.clone(), verdict);
        }
    }

    /// Whether control has been asked for these objects, and for no others.
    pub(super) fn has_asked_for(&self, objects: &BTreeSet<ObjectRef>) -> bool {
        self.stage == Stage::Closed || self.needed == *objects
    }

    /// Asks for blobs and objects; what was asked for before and is not named is not needed any more.
    pub(super) fn needs(&mut self, needs: Needs) {
        self.needed = needs.objects.iter().cloned().collect();
        self.say(Up::Needs(needs));
    }

    /// Tells what came of preparing a revision. A permit is asked for only where one may be taken.
    pub(super) fn ask(&mut self, ask: Ask) {
        if ask.prepared.is_ok() {
            if !self.takes_permits() {
                return;
            }
            self.asked.insert(ask.daemonset.clone(), (ask.revision.clone(), ask.incumbent));
        }
        self.say(Up::Ask(ask));
    }

    /// Whether control was asked for this revision, and told that this would make way for it.
    pub(super) fn asked(&self, daemonset: &Uid, revision: &RevisionHash, incumbent: Incumbent) -> bool {
        self.asked.get(daemonset).is_some_and(|asked| (&asked.0, asked.1) == (revision, incumbent))
    }

    /// Takes a permit, or the end of one.
    pub(super) fn permit(&mut self, permit: Permit) {
        if permit.void {
            self.granted.retain(|_, granted| granted.number != permit.number);
        } else if self.takes_permits() {
            self.granted.insert(permit.daemonset.clone(), permit);
        }
    }

    /// Declines a permit that does not hold, as the pod that would make way is available by now. Control has to be asked again.
    pub(super) fn decline(&mut self, daemonset: &Uid) {
        if let Some(permit) = self.granted.remove(daemonset) {
            self.asked.remove(daemonset);
            self.say(Up::Ack(Ack::Declined(permit.number)));
        }
    }

    /// The permit for this revision.
    pub(super) fn granted(&self, daemonset: &Uid, revision: &RevisionHash) -> Option<&Permit> {
        self.granted.get(daemonset).filter(|granted| granted.revision == *revision)
    }

    /// Tells an event; one that says the same as an earlier one counts that one up.
    pub(super) fn event(&mut self, event: EventReport) {
        let same = |known: &EventReport| {
            (&known.uid, &known.reason, &known.message, &known.field_path)
                == (&event.uid, &event.reason, &event.message, &event.field_path)
        };
        let known = self.events.iter().position(same).and_then(|index| self.events.remove(index));
        let event = match known {
            Some(known) => EventReport { first_at: known.first_at, count: known.count.saturating_add(1), ..event },
            None => event,
        };
        if self.events.len() >= EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        self.say(Up::Events(vec![event]));
    }

    /// Waits until something that is queued can be passed to the link.
    pub(super) async fn writable(&self) {
        let waits = self.is_open() && !self.queue.is_empty();
        match self.up_tx.as_ref().filter(|_| waits) {
            Some(up_tx) if up_tx.reserve().await.is_ok() => {}
            // A link that has ended takes nothing any more.
            _ => std::future::pending().await,
        }
    }

    /// Passes on what the link takes now.
    pub(super) fn flush(&mut self) {
        let Some(up_tx) = self.up_tx.as_ref().filter(|_| self.is_open()) else { return };
        while !self.queue.is_empty() {
            let Ok(slot) = up_tx.try_reserve() else { return };
            if let Some(up) = self.queue.pop_front() {
                slot.send(up);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::link::{HoldReason, Standing};
    use crate::model::{PermitNumber, Position};

    /// A session over a link that takes `room` messages, in this stage.
    fn session(room: usize, stage: Stage) -> (Session, mpsc::Receiver<Up>) {
        let (up_tx, up_rx) = mpsc::channel(room);
        let mut session = Session::new(Some(up_tx));
        session.stage = stage;
        (session, up_rx)
    }

    fn open(room: usize) -> (Session, mpsc::Receiver<Up>) {
        session(room, Stage::Open(Reception::Accepted))
    }

    fn event(message: &str, second: i64) -> EventReport {
        let at = Timestamp::from_second(second).unwrap();
        EventReport {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: "pod".into(),
            field_path: String::new(),
            warning: true,
            reason: "Failed".into(),
            message: message.into(),
            first_at: at,
            last_at: at,
            count: 1,
        }
    }

    fn verdict(seq: u64) -> Verdict {
        Verdict {
            daemonset: "web".into(),
            seq,
            revision: "one".into(),
            standing: Standing::Runs,
            reasons: vec![],
            rejected: vec![],
        }
    }

    fn ask(revision: &str) -> Ask {
        Ask { daemonset: "web".into(), revision: revision.into(), prepared: Ok(()), incumbent: Incumbent::Available }
    }

    fn permit(number: u64, void: bool) -> Permit {
        let (number, daemonset, revision) = (PermitNumber(number), "web".into(), "two".into());
        Permit { number, daemonset, revision, void, if_unavailable: true }
    }

    /// Everything the link has got.
    fn got(up_rx: &mut mpsc::Receiver<Up>) -> Vec<Up> {
        std::iter::from_fn(|| up_rx.try_recv().ok()).collect()
    }

    #[test]
    fn what_is_said_waits_for_the_welcome_and_goes_with_the_session() {
        let ack = Up::Ack(Ack::Position(Position::default()));
        let (mut session, mut up_rx) = session(8, Stage::Closed);
        session.say(ack.clone());
        session.greeted();
        session.flush();
        assert_eq!((session.queue.len(), got(&mut up_rx)), (0, vec![]));
        session.say(ack.clone());
        session.flush();
        assert_eq!(got(&mut up_rx), []);
        session.opened(Reception::Accepted);
        session.flush();
        assert_eq!(got(&mut up_rx), std::slice::from_ref(&ack));
        session.say(ack);
        session.closed();
        session.opened(Reception::Accepted);
        session.flush();
        assert_eq!(got(&mut up_rx), []);
    }

    #[test]
    fn a_verdict_is_told_once_in_each_session() {
        let (mut session, mut up_rx) = open(8);
        [1, 1, 2, 2].into_iter().for_each(|seq| session.verdict(verdict(seq)));
        session.flush();
        assert_eq!(got(&mut up_rx), [1, 2].map(|seq| Up::Verdicts(vec![verdict(seq)])));
        session.greeted();
        session.opened(Reception::Accepted);
        session.verdict(verdict(2));
        session.flush();
        assert_eq!(got(&mut up_rx).len(), 1);
    }

    #[test]
    fn a_permit_is_asked_for_and_held_only_where_it_may_be_taken() {
        let (uid, two) = (Uid::from("web"), RevisionHash::from("two"));
        let hold = Reception::Hold { reason: HoldReason::Clone, message: String::new() };
        for (stage, may) in [
            (Stage::Closed, false),
            (Stage::Greeted, false),
            (Stage::Open(hold), false),
            (Stage::Open(Reception::AdoptOnly(String::new())), false),
            (Stage::Open(Reception::Accepted), true),
        ] {
            let (mut session, _up_rx) = session(8, stage);
            session.ask(ask("two"));
            session.permit(permit(7, false));
            assert_eq!(
                (session.asked(&uid, &two, Incumbent::Available), session.queue.len()),
                (may, usize::from(may)),
                "{:?}",
                session.stage
            );
            assert_eq!(session.granted(&uid, &two).is_some(), may, "{:?}", session.stage);
        }
        let (mut session, _up_rx) = open(8);
        session.permit(permit(7, false));
        assert_eq!(session.granted(&uid, &"three".into()), None);
        session.permit(permit(8, true));
        assert_eq!(session.granted(&uid, &two), Some(&permit(7, false)));
        session.permit(permit(7, true));
        assert_eq!(session.granted(&uid, &two), None);
    }

    #[test]
    fn a_permit_that_is_declined_is_void_and_control_is_asked_again() {
        let (uid, two) = (Uid::from("web"), RevisionHash::from("two"));
        let (mut session, mut up_rx) = open(8);
        session.decline(&uid);
        session.ask(ask("two"));
        session.permit(permit(7, false));
        session.decline(&uid);
        assert_eq!(session.granted(&uid, &two), None);
        assert!(!session.asked(&uid, &two, Incumbent::Available));
        session.flush();
        assert_eq!(got(&mut up_rx), [Up::Ask(ask("two")), Up::Ack(Ack::Declined(PermitNumber(7)))]);
    }

    #[test]
    fn a_slow_link_costs_events_and_delays_reports_but_loses_nothing_else() {
        let (mut session, mut up_rx) = open(1);
        session.pod_changed(&"a".into());
        session.pod_changed(&"b".into());
        session.pod_changed(&"a".into());
        for number in 0..QUEUE_MAX + 10 {
            session.event(event(&number.to_string(), 0));
        }
        assert_eq!(session.queue.len(), QUEUE_MAX);
        session.verdict(verdict(1));
        assert_eq!(session.queue.len(), QUEUE_MAX + 1);
        assert_eq!(session.take_unreported(9, |_| true), Vec::<Uid>::new());
        while !session.queue.is_empty() {
            session.flush();
            assert_eq!(got(&mut up_rx).len(), 1);
        }
        session.pod_changed(&"unseen".into());
        let is_seen = |pod: &Uid| pod.as_str() != "unseen";
        assert_eq!(session.take_unreported(1, is_seen), ["a".into()]);
        assert_eq!(session.take_unreported(9, is_seen), ["b".into()]);
        assert_eq!(session.take_unreported(9, |_| true), ["unseen".into()]);
    }

    #[test]
    fn the_last_pods_that_are_gone_are_known_in_their_session() {
        let (mut session, _up_rx) = open(8);
        (0..=GONE_KEPT).for_each(|number| session.pod_gone(&Uid(number.to_string())));
        let is_known = |session: &Session, number: usize| session.is_gone(&Uid(number.to_string()));
        assert_eq!([0, 1, GONE_KEPT].map(|number| is_known(&session, number)), [false, true, true]);
        session.closed();
        session.pod_gone(&Uid(0.to_string()));
        assert_eq!([0, 1, GONE_KEPT].map(|number| is_known(&session, number)), [false; 3]);
    }

    #[test]
    fn an_event_that_happens_again_is_counted() {
        let (mut session, mut up_rx) = open(8);
        let counted = |up: &[Up]| match up {
            [Up::Events(events)] => (events[0].count, events[0].first_at.as_second(), events[0].last_at.as_second()),
            other => panic!("{other:?}"),
        };
        let mut happens = |message: &str, second| {
            session.event(event(message, second));
            session.flush();
            counted(&got(&mut up_rx))
        };
        assert_eq!(happens("a", 1), (1, 1, 1));
        assert_eq!(happens("b", 2), (1, 2, 2));
        assert_eq!(happens("a", 3), (2, 1, 3));
        // The oldest make room for others.
        for number in 0..EVENTS_KEPT {
            happens(&format!("other {number}"), 4);
        }
        assert_eq!(happens("a", 5), (1, 5, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_link_without_need() {
        let limit = std::time::Duration::from_secs(1);
        let waits = async |session: &Session| tokio::time::timeout(limit, session.writable()).await.is_err();
        let (mut session, up_rx) = open(1);
        assert!(waits(&session).await, "with nothing to say");
        session.verdict(verdict(1));
        assert!(!waits(&session).await, "with room");
        session.flush();
        session.verdict(verdict(2));
        assert!(waits(&session).await, "without room");
        drop(up_rx);
        assert!(waits(&session).await, "with a link that has ended");
        session.stage = Stage::Greeted;
        assert!(waits(&session).await, "before the welcome");
    }
}
