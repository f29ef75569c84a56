//! The record of the fleet: its id, and the eras of its store (design: position and era).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::records::{parse, record, unchanged};
use super::{ObjectError, Objects, keys};
use crate::model::{FleetId, PermitNumber, Position};
use crate::store::{Change, Condition, Entry, Store, Write};

/// How long to wait before the store is watched again after its watch broke.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What a fleet is to those who belong to it. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetRecord {
    /// Made with the store.
    pub id: FleetId,
    /// At least one; the last is the present one.
    pub eras: Vec<EraRecord>,
}

/// One history of the store, as long as it could prove that nothing it acknowledged was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EraRecord {
    /// [`Position::era`]. It is the store's [`HistoryId`](crate::store::HistoryId) and not a count: two histories that
    /// both grew out of the same back-up must not have the same era.
    pub era: u64,
    /// `seq` of the position when it began: intent beyond it that an earlier era knew is lost.
    pub begins_at: u64,
    /// Eras whose lost intent a person has given up: nodes that have taken it over follow this era all the same.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub succeeds: BTreeSet<u64>,
}

impl FleetRecord {
    /// The record of the fleet in `store` and where it stands, made if it has none. A store with another history than
    /// that of the last era begins a new era here.
    pub(super) async fn open(store: &dyn Store) -> Result<(Self, Position), ObjectError> {
        let era = store.history().0;
        let position = read_position(store).await?;
        let seq = position.as_ref().map_or(0, |(_, position)| position.seq);
        let found = store.get(keys::FLEET).await.map_err(ObjectError::Store)?;
        let mut fleet = match &found {
            Some(entry) => parse(&entry.key, &entry.value)?,
            None => Self { id: FleetId(Uuid::new_v4().to_string()), eras: Vec::new() },
        };
        let here = Position { era, seq };
        if fleet.eras.last().is_some_and(|last| last.era == era) {
            return Ok((fleet, here));
        }
        fleet.eras.push(EraRecord { era, begins_at: seq, succeeds: BTreeSet::new() });
        let condition = |entry: Option<&Entry>, key: &str| {
            entry.map_or_else(|| Condition::Absent { key: key.to_owned() }, unchanged)
        };
        let conditions = vec![
            condition(found.as_ref(), keys::FLEET),
            condition(position.as_ref().map(|(entry, _)| entry), keys::POSITION),
        ];
        let writes = vec![record(keys::FLEET.to_owned(), &fleet), record(keys::POSITION.to_owned(), &here)];
        store.commit(conditions, writes).await.map_err(ObjectError::Store)?;
        Ok((fleet, here))
    }

    /// Whether everything a node at `node` has taken over is known here, with `seq` the present one.
    ///
    /// A position of an earlier era is known up to where the next era began; one of an era that is not in the record is
    /// not known at all. A node that has taken over nothing is always known, and so is one whose era was succeeded.
    pub fn accounts_for(&self, node: Position, seq: u64) -> bool {
        if node == Position::default() || self.eras.iter().any(|record| record.succeeds.contains(&node.era)) {
            return true;
        }
        let Some(index) = self.eras.iter().position(|record| record.era == node.era) else { return false };
        let known = self.eras.get(index + 1).map_or(seq, |next| next.begins_at);
        node.seq <= known
    }

    /// The record and the position of a store that was rebuilt from what the nodes of fleet `id` hold: it is their fleet, and
    /// no intent of theirs lies beyond it.
    fn recovered(&self, here: Position, id: &FleetId, ahead: &[Position]) -> (Self, Position) {
        let (fleet, position) = self.succeeding(here, ahead);
        let beyond = ahead.iter().map(|held| held.seq + 1).max().unwrap_or(0);
        (Self { id: id.clone(), ..fleet }, Position { seq: position.seq.max(beyond), ..position })
    }

    /// The record and the position once a person has confirmed the present era as the successor of all before it, for
    /// nodes that stand at `ahead`.
    ///
    /// Nodes of the present era that are ahead of it (all of the disk was set back, so nobody noticed) are overtaken: what
    /// is written from now on lies beyond what they hold.
    fn succeeding(&self, here: Position, ahead: &[Position]) -> (Self, Position) {
        let mut fleet = self.clone();
        let earlier = self.eras.iter().map(|record| record.era).chain(ahead.iter().map(|held| held.era));
        let succeeded: Vec<_> = earlier.filter(|era| *era != here.era).collect();
        if let Some(present) = fleet.eras.last_mut() {
            present.succeeds.extend(succeeded);
        }
        let beyond = ahead.iter().filter(|held| held.era == here.era).map(|held| held.seq + 1).max();
        (fleet, Position { seq: here.seq.max(beyond.unwrap_or(0)), ..here })
    }
}

impl Objects {
    /// Makes the present era the successor of all others for good, as a person has confirmed: nodes that stand at `ahead`,
    /// and those that were away with them, follow it from now on. False if somebody else wrote meanwhile.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn succeed(&self, ahead: &[Position]) -> Result<bool, ObjectError> {
        self.change_fleet(|fleet, here| fleet.succeeding(here, ahead), Vec::new()).await
    }

    /// Makes this the fleet with `id` that stood at `ahead` and had given out permits up to `last_permit`. False if somebody
    /// else wrote meanwhile.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn recover_fleet(
        &self,
        id: &FleetId,
        ahead: &[Position],
        last_permit: PermitNumber,
    ) -> Result<bool, ObjectError> {
        let found = self.inner.store.get(keys::LAST_PERMIT).await.map_err(ObjectError::Store)?;
        let known = found.map(|entry| parse::<PermitNumber>(&entry.key, &entry.value)).transpose()?;
        let permit = (known.is_none_or(|known| known.0 < last_permit.0))
            .then(|| record(keys::LAST_PERMIT.to_owned(), &last_permit));
        self.change_fleet(|fleet, here| fleet.recovered(here, id, ahead), permit.into_iter().collect()).await
    }

    async fn change_fleet(
        &self,
        change: impl FnOnce(&FleetRecord, Position) -> (FleetRecord, Position),
        mut writes: Vec<Write>,
    ) -> Result<bool, ObjectError> {
        let store = &*self.inner.store;
        let found = store.get(keys::FLEET).await.map_err(ObjectError::Store)?;
        let (Some(found), Some((at, here))) = (found, read_position(store).await?) else { return Ok(false) };
        let current: FleetRecord = parse(&found.key, &found.value)?;
        let (fleet, position) = change(&current, here);
        writes.push(record(keys::FLEET.to_owned(), &fleet));
        if position != here {
            writes.push(record(keys::POSITION.to_owned(), &position));
        }
        let written = self.commit_if(vec![unchanged(&found), unchanged(&at)], writes).await?;
        if written {
            self.inner.fleet_tx.send_replace(Arc::new(fleet));
        }
        Ok(written)
    }
}

/// The position and its entry; none in a new store.
pub(super) async fn read_position(store: &dyn Store) -> Result<Option<(Entry, Position)>, ObjectError> {
    let Some(entry) = store.get(keys::POSITION).await.map_err(ObjectError::Store)? else { return Ok(None) };
    let position = parse(&entry.key, &entry.value)?;
    Ok(Some((entry, position)))
}

/// Passes on where the position stands, whenever it moves, until dropped.
pub(super) async fn follow_position(store: Arc<dyn Store>, position_tx: watch::Sender<Position>) {
    loop {
        let watch = store.watch(keys::POSITION, store.revision()).await;
        let mut changes = watch.unwrap_or_else(|error| stream::iter([Err(error)]).boxed());
        // Read after the watch has begun, so that no move is missed in between.
        let mut moved = read_position(&*store).await.ok().flatten().map(|(entry, _)| entry);
        loop {
            let position: Option<Position> = moved.and_then(|entry| serde_json::from_slice(&entry.value).ok());
            position_tx.send_if_modified(|known| {
                let newer = position.filter(|position| position.seq > known.seq);
                newer.map(|position| *known = position).is_some()
            });
            moved = match changes.next().await {
                Some(Ok(Change::Put { entry, .. })) => Some(entry),
                Some(Ok(_)) => None,
                Some(Err(_)) | None => break,
            };
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    fn era(era: u64, begins_at: u64) -> EraRecord {
        EraRecord { era, begins_at, succeeds: BTreeSet::new() }
    }

    #[tokio::test]
    async fn a_fleet_is_made_once_and_keeps_its_era_with_its_history() {
        let store = Memory::new();
        let (made, position) = FleetRecord::open(&*store).await.unwrap();
        assert_eq!(made.eras, [era(store.history().0, 0)]);
        assert_eq!(position, Position { era: store.history().0, seq: 0 });
        assert_eq!(FleetRecord::open(&*store).await.unwrap(), (made, position));
    }

    #[tokio::test]
    async fn another_history_is_a_new_era_from_where_the_position_stands() {
        let store = Memory::new();
        let old = FleetRecord { id: "fleet".into(), eras: vec![era(1, 0)] };
        let position = record(keys::POSITION.to_owned(), &Position { era: 1, seq: 7 });
        store.commit(vec![], vec![record(keys::FLEET.to_owned(), &old), position]).await.unwrap();
        let (fleet, position) = FleetRecord::open(&*store).await.unwrap();
        assert_eq!((fleet.id, position), (old.id, Position { era: store.history().0, seq: 7 }));
        assert_eq!(fleet.eras[1], era(store.history().0, 7));
        assert_eq!(read_position(&*store).await.unwrap().unwrap().1, position);
    }

    #[test]
    fn what_an_earlier_era_knew_beyond_its_end_is_not_accounted_for() {
        let fleet = FleetRecord { id: "fleet".into(), eras: vec![era(11, 0), era(7, 5), era(9, 9)] };
        let cases = [
            ((0, 0), true),
            ((11, 5), true),
            ((11, 6), false),
            ((7, 9), true),
            ((7, 10), false),
            ((9, 12), true),
            ((9, 13), false),
            ((8, 1), false),
            ((0, 1), false),
        ];
        for ((era, seq), known) in cases {
            assert_eq!(fleet.accounts_for(Position { era, seq }, 12), known, "era {era}, seq {seq}");
        }
    }

    #[test]
    fn an_era_that_a_person_confirmed_accounts_for_what_the_others_knew() {
        let fleet = FleetRecord { id: "fleet".into(), eras: vec![era(11, 0), era(9, 5)] };
        let at = |era, seq| Position { era, seq };
        let (here, ahead) = (at(9, 6), [at(11, 8), at(3, 20), at(9, 12)]);
        assert_eq!(ahead.map(|held| fleet.accounts_for(held, here.seq)), [false; 3]);
        let (confirmed, position) = fleet.succeeding(here, &ahead);
        assert_eq!(position, at(9, 13));
        assert_eq!(ahead.map(|held| confirmed.accounts_for(held, position.seq)), [true; 3]);
        // Also nodes that were away; but no era that nobody has seen, and no later one.
        assert!(confirmed.accounts_for(at(11, 900), position.seq));
        assert!(!confirmed.accounts_for(at(4, 1), position.seq));
        assert!(!confirmed.accounts_for(at(9, 14), position.seq));
    }

    #[tokio::test]
    async fn a_confirmation_outlives_the_process_and_ends_with_the_next_era() {
        let store = Memory::new();
        let old = FleetRecord { id: "fleet".into(), eras: vec![era(1, 0)] };
        let position = record(keys::POSITION.to_owned(), &Position { era: 1, seq: 7 });
        store.commit(vec![], vec![record(keys::FLEET.to_owned(), &old), position]).await.unwrap();
        let objects = Objects::open(store.clone()).await.unwrap();
        let lost = Position { era: 1, seq: 9 };
        assert!(!objects.fleet().accounts_for(lost, 7));
        assert!(objects.succeed(&[lost]).await.unwrap());
        assert!(objects.fleet().accounts_for(lost, 7));
        let (mut read, _) = FleetRecord::open(&*store).await.unwrap();
        assert_eq!(read, *objects.fleet());
        read.eras.push(era(5, 7));
        assert!(!read.accounts_for(Position { era: store.history().0, seq: 8 }, 7));
    }

    #[tokio::test]
    async fn a_store_that_was_rebuilt_is_the_fleet_of_its_nodes_and_lies_beyond_all_they_know() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let lost = [Position { era: 3, seq: 40 }, Position { era: 3, seq: 51 }];
        assert!(objects.recover_fleet(&"theirs".into(), &lost, PermitNumber(17)).await.unwrap());
        let fleet = objects.fleet();
        let here = objects.position().wait_for(|position| position.seq == 52).await.map(|position| *position).unwrap();
        assert_eq!((&fleet.id, lost.map(|held| fleet.accounts_for(held, here.seq))), (&"theirs".into(), [true; 2]));
        let number = async || {
            let permits = objects.grant(&"set".into(), &["node".into()], &"one".into()).await.unwrap();
            permits[0].number
        };
        assert_eq!(number().await, PermitNumber(18));
        // Nodes that were away bring older ones.
        assert!(objects.recover_fleet(&"theirs".into(), &lost, PermitNumber(2)).await.unwrap());
        assert_eq!(number().await, PermitNumber(19));
    }
}
