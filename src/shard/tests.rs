//! Whole shards, driven by hand.

use std::any::Any;
use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::{Version, WallTime};
use crate::config::DEFAULT_EVERY_LIVE_PATIENCE;
use crate::entry::Content;
use crate::error::{NotApplied, ReadError, RunError, WriteError};
use crate::options::{Eviction, OnPartition, Quorum, WriteOptions};
use crate::placement::{Ballot, Gone, ListRef, Member, Placement, Site, Wish};
use crate::quorums::{Count, Quorums};
use crate::replication::quorum::RETRY_AFTER;
use crate::shard::requests::ReplicaAsker;
use crate::types::{Boot, ClusterHash, CoreId, Identity, KeyHash, NodeHash, NodeId, Partition};
use crate::wire::message::{
    Answer, Chunk, Compare, Compared, Extent, Found, Listed, Request, Seen, Survey, Surveyed, Want,
};
use crate::wire::retention::PurgeMark;
use crate::wire::timing::PURGE_GRACE;

const CLUSTER: ClusterHash = ClusterHash(7);
const WALL_MICROS: u64 = 1_700_000_000_000_000;

/// A shard with its time and what it wants done.
struct Driven<C = u32> {
    shard: Shard<C>,
    now: Now,
    actions: Vec<Action<C>>,
}

fn identity(number: u64) -> Identity {
    Identity { node: NodeHash(number), boot: Boot(1), returns: 0, addr: ([127, 0, 0, 1], 1).into() }
}

fn config(nodes: u64) -> ShardConfig {
    ShardConfig {
        cluster: CLUSTER,
        core: CoreId(0),
        cores: 1,
        me: identity(0),
        quorums: Quorums::exactly(nodes as u8, nodes as u8, 1),
        on_partition: OnPartition::Serve,
        every_live: false,
        every_live_patience: DEFAULT_EVERY_LIVE_PATIENCE,
        standalone: nodes == 1,
        memory: None,
        eviction: Eviction::Sieve,
        purge_grace: PURGE_GRACE,
    }
}

/// The first of `nodes` nodes, in a cluster that was just born.
fn born<C>(config: ShardConfig, nodes: u64) -> Driven<C> {
    let member = |number| Member {
        identity: identity(number),
        id: NodeId::new(&format!("n{number}")),
        cores: config.cores,
        site: Site::default(),
        leaving: false,
    };
    let members = (0..nodes).map(member).collect();
    let placement = Arc::new(Placement::new(members, config.quorums.replicas, 1, Gone::new()));
    let now =
        Now { instant: Instant::from_nanos(1_000_000), wall: WallTime::from_micros(WALL_MICROS) };
    let shard = Shard::new(config, Arc::new(Readers::new(None)));
    let mut driven = Driven { shard, now, actions: Vec::new() };
    driven.tell(Event::Placement { placement, stage: Stage::Born { members_digest: 0 } });
    driven.actions.clear();
    driven
}

/// Merges what another node holds, as a handoff does.
fn merge(driven: &mut Driven, now: Now, partition: Partition, entries: Vec<Entry>) -> usize {
    let Shard { node, replica, .. } = &mut driven.shard;
    replica.copies.merge(node, now, partition, entries)
}

fn alone() -> Driven {
    born(config(1), 1)
}

/// Returns the first of two nodes that both must acknowledge.
fn of_two() -> Driven {
    born(config(2), 2)
}

impl<C> Driven<C> {
    fn tell(&mut self, event: Event<C>) {
        self.shard.handle(self.now, event, &mut self.actions);
    }

    fn call(&mut self, call: Call, caller: C) {
        self.tell(Event::Call { call, caller });
    }

    /// One turn's timers, a microsecond later.
    fn turn(&mut self) {
        self.pass(Duration::from_micros(1));
        self.shard.handle_timers(self.now, &mut self.actions);
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant = self.now.instant + time;
        self.now.wall = WallTime::from_micros(self.now.wall.micros() + time.as_micros() as u64);
    }

    fn deadline(&self) -> Instant {
        self.now.instant + Duration::from_secs(1)
    }

    /// The replies since the last look.
    fn replies(&mut self) -> Vec<(C, Outcome)> {
        let mut replies = Vec::new();
        for action in std::mem::take(&mut self.actions) {
            if let Action::Reply { caller, outcome } = action {
                replies.push((caller, outcome));
            }
        }
        replies
    }

    fn reply(&mut self) -> Outcome {
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1);
        replies.remove(0).1
    }

    /// The other node answers every request that was made.
    fn others_acknowledge(&mut self) {
        let asked: Vec<u64> = self.asked();
        for request_id in asked {
            self.tell(Event::Answer {
                from: None,
                request_id,
                answer: Answer::Written { superseded_by: None, synced: true },
            });
        }
    }

    fn asked(&mut self) -> Vec<u64> {
        let mut asked = Vec::new();
        self.actions.retain(|action| match action {
            Action::Ask { request_id, .. } => {
                asked.push(*request_id);
                false
            }
            _ => true,
        });
        asked
    }

    fn write(&self, key: &[u8], content: Content<'_>, options: &WriteOptions) -> Call {
        let wall = self.now.wall;
        let rules = &self.shard.node.write_rules;
        Call::Write(WriteCall::new(rules, key, content, options, self.deadline(), || wall).unwrap())
    }

    fn set(&self, key: &[u8], value: &[u8]) -> Call {
        self.write(key, Content::Value(value), &WriteOptions::new())
    }

    fn get(&self, key: &[u8]) -> Call {
        let (hash, quorum) = (KeyHash::of(CLUSTER, key), self.shard.node.config.quorums.read);
        Call::Read(Box::new(ReadCall {
            key: key.into(),
            hash,
            quorum,
            local: false,
            anywhere: false,
            deadline: self.deadline(),
        }))
    }

    fn touch(&self, key: &[u8], ttl: Option<Duration>) -> Call {
        let expires_at_ms = ttl.map(|ttl| expires_at_ms(ttl, self.now.wall).unwrap());
        let hash = KeyHash::of(CLUSTER, key);
        Call::Touch(Box::new(TouchCall {
            key: key.into(),
            hash,
            expires_at_ms,
            deadline: self.deadline(),
        }))
    }

    fn run<T: Any + Send>(
        &self,
        run: impl FnOnce(&mut LocalShard<'_>) -> T + Send + 'static,
    ) -> Call {
        Call::Run(RunCall {
            run: Box::new(|shard| Box::new(run(shard))),
            deadline: self.deadline(),
        })
    }

    fn live(&self) -> usize {
        self.shard.replica.copies.store.live()
    }
}

/// What a closure returned.
fn ran<T: 'static>(outcome: Outcome) -> Result<T, RunError> {
    let Outcome::Ran(result) = outcome else { panic!("{outcome:?}") };
    let value = result.map_err(|error| *error)?;
    Ok(value.take().expect("what the closure returned"))
}

fn many(outcome: Outcome) -> Vec<Outcome> {
    let Outcome::Many(outcomes) = outcome else { panic!("{outcome:?}") };
    outcomes
}

fn value(outcome: &Outcome) -> Option<&[u8]> {
    let Outcome::Read(Ok(found)) = outcome else { panic!("{outcome:?}") };
    found.as_ref().and_then(Entry::value)
}

fn assert_written(outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Written(Ok(()))), "{outcome:?}");
}

#[test]
fn a_group_is_answered_in_its_order_and_sees_what_it_did() {
    let mut shard = alone();
    let ttl = Some(Duration::from_secs(60));
    let calls = vec![
        shard.get(b"a"),
        shard.set(b"a", b"1"),
        shard.get(b"a"),
        shard.set(b"a", b"2"),
        shard.touch(b"a", ttl),
        shard.touch(b"b", ttl),
        shard.get(b"a"),
        shard.write(b"a", Content::Tombstone, &WriteOptions::new()),
        shard.get(b"a"),
    ];
    assert_eq!(Call::Many(Vec::new()).weight(), 1);
    let call = Call::Many(calls);
    assert_eq!(call.weight(), 9);
    shard.call(call, 1);
    let outcomes = many(shard.reply());
    assert_eq!(outcomes.len(), 9);
    let values: Vec<_> = [0, 2, 6, 8].iter().map(|&at| value(&outcomes[at])).collect();
    assert_eq!(values, [None, Some(&b"1"[..]), Some(b"2"), None]);
    [1, 3, 7].iter().for_each(|&at| assert_written(&outcomes[at]));
    assert!(matches!(outcomes[4], Outcome::Touched(Ok(true))));
    assert!(matches!(outcomes[5], Outcome::Touched(Ok(false))));
    shard.call(Call::Many(Vec::new()), 2);
    assert!(many(shard.reply()).is_empty());
    assert!(shard.shard.coordinator.groups_left().is_empty());
}

#[test]
fn what_is_late_in_a_group_is_not_begun() {
    let mut shard = alone();
    let late = vec![shard.set(b"a", b"1"), shard.touch(b"a", None), shard.get(b"a")];
    shard.pass(Duration::from_secs(2));
    let calls = late.into_iter().chain([shard.set(b"b", b"1")]).collect();
    shard.call(Call::Many(calls), 1);
    let outcomes = many(shard.reply());
    assert!(matches!(
        outcomes[0],
        Outcome::Written(Err(WriteError::NotApplied(NotApplied::Overloaded)))
    ));
    assert!(matches!(
        outcomes[1],
        Outcome::Touched(Err(WriteError::NotApplied(NotApplied::Overloaded)))
    ));
    assert!(matches!(outcomes[2], Outcome::Read(Err(ReadError::Overloaded))));
    assert_written(&outcomes[3]);
    assert_eq!(shard.live(), 1);
}

#[test]
fn a_large_group_goes_on_in_turns_and_others_come_between() {
    const CALLS: usize = 100_000;
    let mut shard = alone();
    let calls: Vec<Call> = (0..CALLS).map(|at| shard.set(&at.to_le_bytes(), b"value")).collect();
    let call = Call::Many(calls);
    assert_eq!(call.weight(), 256);
    shard.call(call, 1);
    assert_eq!(shard.live(), 256);
    shard.call(Call::Counts, 2);
    let counts = shard.reply();
    let Outcome::Counts(counts) = counts else { panic!("{counts:?}") };
    assert_eq!(counts.calls_in_flight, 99_744);
    let mut turns = 0;
    while shard.shard.coordinator.groups_left().len() == 1 {
        let before = shard.live();
        shard.turn();
        turns += 1;
        assert!(shard.live() - before <= 256);
        let key = [b"other", &turns.to_string().into_bytes()[..]].concat();
        let (set, get) = (shard.set(&key, b"1"), shard.get(&key));
        shard.call(set, 3);
        shard.call(get, 4);
        let mut replies = shard.replies();
        if shard.shard.coordinator.groups_left().is_empty() {
            let outcomes = many(replies.remove(0).1);
            assert_eq!(outcomes.len(), CALLS);
            outcomes.iter().for_each(assert_written);
        }
        assert_eq!(replies.iter().map(|reply| reply.0).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(value(&replies[1].1), Some(&b"1"[..]));
        shard.shard.replica.copies.store.collect();
    }
    assert_eq!(turns, (CALLS - 256).div_ceil(256));
    assert_eq!(shard.live(), CALLS + turns);
}

#[test]
fn a_group_keeps_its_order_where_a_write_waits_for_room() {
    let mut shard: Driven = born(ShardConfig { memory: Some(4 << 20), ..config(1) }, 1);
    for at in 0..20_000u32 {
        let call = shard.set(&at.to_le_bytes(), &[0; 100]);
        shard.call(call, 0);
        while shard.shard.coordinator.waiting_writes() > 0 {
            shard.turn();
        }
    }
    shard.actions.clear();
    let large = vec![1; 2 << 20];
    let calls =
        vec![shard.set(b"k", &large), shard.get(b"k"), shard.set(b"k", b"2"), shard.get(b"k")];
    shard.call(Call::Many(calls), 1);
    assert_eq!(shard.shard.coordinator.waiting_writes(), 1, "more goes than one call evicts");
    while shard.replies_are_none() {
        shard.turn();
    }
    let outcomes = many(shard.reply());
    assert_eq!(value(&outcomes[1]), Some(&large[..]));
    assert_eq!(value(&outcomes[3]), Some(&b"2"[..]));
    let large = vec![1; 3 << 20];
    let late = vec![shard.set(b"l", &large), shard.set(b"m", b"1")];
    shard.call(Call::Many(late), 1);
    assert_eq!(shard.shard.coordinator.waiting_writes(), 1);
    shard.pass(Duration::from_secs(1));
    while shard.replies_are_none() {
        shard.turn();
    }
    for outcome in many(shard.reply()) {
        let late = WriteError::NotApplied(NotApplied::Overloaded);
        assert!(matches!(&outcome, Outcome::Written(Err(error)) if *error == late), "{outcome:?}");
    }
}

#[test]
fn groups_take_turns() {
    let mut shard = alone();
    let group = |shard: &Driven, name: u8, calls: u32| {
        Call::Many(
            (0..calls)
                .map(|at| shard.set(&[&[name], &at.to_le_bytes()[..]].concat(), b""))
                .collect(),
        )
    };
    let (large, other, small) =
        (group(&shard, 1, 100_000), group(&shard, 2, 100_000), group(&shard, 3, 256 + 64));
    shard.call(large, 1);
    shard.call(other, 2);
    shard.call(small, 3);
    assert!(shard.replies().is_empty());
    shard.turn();
    let replies = shard.replies();
    assert_eq!(replies.len(), 1, "64 calls of each, and 64 of one more");
    assert_eq!(replies[0].0, 3);
    assert_eq!(shard.live(), 3 * 256 + 256);
    let mut order = Vec::new();
    while order.len() < 2 {
        shard.turn();
        order.extend(shard.replies().into_iter().map(|reply| reply.0));
        let left: Vec<usize> = shard.shard.coordinator.groups_left();
        assert!(left.len() < 2 || left[0].abs_diff(left[1]) <= 64, "{left:?}");
    }
    assert_eq!(shard.shard.deadline().filter(|at| *at <= shard.now.instant), None);
}

#[test]
fn a_group_waits_for_the_other_replicas_all_at_once() {
    let mut shard = of_two();
    let calls = vec![shard.set(b"a", b"1"), shard.set(b"a", b"2"), shard.get(b"a")];
    shard.call(Call::Many(calls), 1);
    assert!(shard.replies_are_none());
    shard.others_acknowledge();
    let outcomes = many(shard.reply());
    assert_eq!(
        value(&outcomes[2]),
        Some(&b"2"[..]),
        "of one core, with R = 1, they take effect in order"
    );
    assert_written(&outcomes[0]);
    assert_written(&outcomes[1]);
}

impl<C> Driven<C> {
    fn replies_are_none(&self) -> bool {
        !self.actions.iter().any(|action| matches!(action, Action::Reply { .. }))
    }
}

#[test]
fn no_turn_fires_more_timers_than_its_share() {
    let mut shard = of_two();
    for at in 0..1000u32 {
        let call = shard.set(&at.to_le_bytes(), b"");
        shard.call(call, at);
    }
    shard.actions.clear();
    shard.pass(Duration::from_secs(1));
    let mut answered = 0;
    for _ in 0..4 {
        assert!(shard.shard.deadline().is_some_and(|at| at <= shard.now.instant));
        shard.shard.handle_timers(shard.now, &mut shard.actions);
        let replies = shard.replies().len();
        assert!(replies <= 256);
        answered += replies;
    }
    assert_eq!(answered, 1000);
    assert!(shard.shard.deadline().is_none_or(|at| at > shard.now.instant));
}

#[derive(Clone, Debug)]
enum Step {
    Set {
        key: u8,
        bytes: usize,
        ttl_ms: Option<u64>,
    },
    Delete {
        key: u8,
    },
    Touch {
        key: u8,
        ttl_ms: Option<u64>,
    },
    /// A peer's write arrives, of a clock that is ahead.
    Merge {
        key: u8,
        ahead_ms: u64,
    },
    Pass {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let ttl = || prop::option::of(1u64..500);
    prop_oneof![
        6 => (0u8..40, prop_oneof![0usize..100, 30_000usize..90_000], ttl())
            .prop_map(|(key, bytes, ttl_ms)| Step::Set { key, bytes, ttl_ms }),
        2 => (0u8..40).prop_map(|key| Step::Delete { key }),
        1 => (0u8..40, ttl()).prop_map(|(key, ttl_ms)| Step::Touch { key, ttl_ms }),
        1 => (0u8..40, 0u64..120_000).prop_map(|(key, ahead_ms)| Step::Merge { key, ahead_ms }),
        2 => (1u64..300).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// Carries out a step; without `direct`, by a quorum that has nothing to wait for and takes the
/// long way.
fn take(shard: &mut Driven, step: &Step, direct: bool) -> Vec<String> {
    let ttl = |ms: &Option<u64>| ms.map(Duration::from_millis);
    let write = |shard: &Driven, key: &u8, content: Content<'_>, ttl| {
        let options = WriteOptions { ttl, ..WriteOptions::new() };
        let Call::Write(call) = shard.write(&[*key], content, &options) else { unreachable!() };
        Call::Write(WriteCall { quorum: Count::Exactly(direct.into()), ..call })
    };
    match step {
        Step::Set { key, bytes, ttl_ms } => {
            let call = write(shard, key, Content::Value(&vec![*key; *bytes]), ttl(ttl_ms));
            shard.call(call, 1);
        }
        Step::Delete { key } => {
            let call = write(shard, key, Content::Tombstone, None);
            shard.call(call, 1);
        }
        Step::Touch { key, ttl_ms } => {
            let call = shard.touch(&[*key], ttl(ttl_ms));
            shard.call(call, 1);
        }
        Step::Merge { key, ahead_ms } => {
            let hash = KeyHash::of(CLUSTER, &[*key]);
            let list = shard
                .shard
                .replica
                .copies
                .partition(hash.partition())
                .list()
                .map_or(ListRef::default(), |l| l.reference());
            let version = Version((WALL_MICROS + ahead_ms * 1000) << 12);
            let entry =
                Entry::new(&[*key], Content::Value(b"merged"), version, NonZeroU64::new(1 << 50));
            let request = Request::Write { list, entry };
            let partition = hash.partition();
            shard.tell(Event::Request {
                via: 1,
                from: identity(1),
                partition,
                request_id: 1,
                request,
            });
        }
        Step::Pass { ms } => {
            shard.pass(Duration::from_millis(*ms));
            shard.shard.handle_timers(shard.now, &mut shard.actions);
        }
    }
    let told = std::mem::take(&mut shard.actions);
    // Room is made in steps.
    for _ in 0..8 {
        shard.turn();
    }
    told.iter()
        .chain(&std::mem::take(&mut shard.actions))
        .map(|action| format!("{action:?}"))
        .collect()
}

proptest! {
    #[test]
    fn a_write_of_one_step_does_what_the_long_way_does(
        steps in prop::collection::vec(step(), 1..80),
        is_standalone in any::<bool>(),
        memory in prop::option::of(Just(1usize << 20)),
        evicts in any::<bool>(),
    ) {
        let eviction = if evicts { Eviction::Sieve } else { Eviction::None };
        let config = ShardConfig { standalone: is_standalone, memory, eviction, ..config(1) };
        let (mut direct, mut long) = (born(config.clone(), 1), born(config, 1));
        for step in &steps {
            prop_assert_eq!(take(&mut direct, step, true), take(&mut long, step, false));
            prop_assert_eq!(direct.shard.deadline(), long.shard.deadline());
            prop_assert_eq!(direct.shard.counts(), long.shard.counts());
        }
        for partition in Partition::all() {
            let direct = &direct.shard.replica.copies.store;
            let long = &long.shard.replica.copies.store;
            prop_assert_eq!(direct.digest(partition), long.digest(partition));
            prop_assert_eq!(direct.sequence(partition), long.sequence(partition));
        }
    }
}

/// A key of one of two cores.
fn key_of(core: u16) -> Vec<u8> {
    let is_of = |key: &[u8; 4]| KeyHash::of(CLUSTER, key).partition().core(2) == CoreId(core);
    (0u32..).map(u32::to_le_bytes).find(is_of).expect("half of them are").to_vec()
}

#[test]
fn a_closure_reads_and_writes_the_keys_of_its_core() {
    let mut shard: Driven = born(ShardConfig { cores: 2, ..config(1) }, 1);
    let (own, other) = (key_of(0), key_of(1));
    let call = shard.run(move |shard: &mut LocalShard<'_>| {
        assert_eq!(shard.core(), 0);
        assert!(shard.owns(&own) && !shard.owns(&other));
        assert_eq!(shard.get(&own), Ok(None));
        shard.set(&own, "1").unwrap();
        assert_eq!(shard.get(&own), Ok(Some(&b"1"[..])));
        shard
            .set_with(&own, [7; 10_000], &WriteOptions::new().ttl(Duration::from_secs(1)))
            .unwrap();
        assert_eq!(shard.get(&own).unwrap().map(<[u8]>::len), Some(10_000));
        shard.delete(&own).unwrap();
        assert_eq!(shard.contains(&own), Ok(false));
        shard.set(&own, "2").unwrap();
        assert_eq!(shard.set(&other, "1"), Err(NotApplied::OtherCore));
        assert_eq!(shard.delete(&other), Err(NotApplied::OtherCore));
        assert_eq!(shard.get(&other), Err(ReadError::OtherCore));
        let long = vec![0; 1 << 16];
        assert_eq!(shard.get(&long), Err(ReadError::KeyTooLong { length: 1 << 16 }));
        assert_eq!(shard.set(&long, ""), Err(NotApplied::KeyTooLong { length: 1 << 16 }));
        let never = WriteOptions::new().timeout(Duration::ZERO);
        assert_eq!(shard.set_with(&own, "3", &never), Err(NotApplied::Overloaded));
        assert_eq!(format!("{shard:?}"), "LocalShard { core: 0, .. }");
        shard.get(&own).unwrap().map(<[u8]>::to_vec)
    });
    shard.call(call, 1);
    assert_eq!(ran::<Option<Vec<u8>>>(shard.reply()), Ok(Some(b"2".to_vec())));
    assert!(shard.shard.coordinator.has_no_runs());
}

#[test]
fn a_closure_that_panics_fails_alone() {
    /// Throws again when it is dropped.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(1);
        }
    }
    let mut shard = alone();
    for (at, message) in [(0, "static"), (1, "formatted 1"), (2, "no message"), (3, "no message")] {
        let call = shard.run(move |shard: &mut LocalShard<'_>| {
            shard.set([at], "before").unwrap();
            match at {
                0 => panic!("static"),
                1 => panic!("formatted {at}"),
                2 => std::panic::panic_any(5),
                _ => std::panic::panic_any(Bomb),
            }
        });
        shard.call(call, 1);
        let panicked = RunError::Panicked { message: message.to_owned() };
        assert_eq!(ran::<()>(shard.reply()), Err(panicked));
        let call = shard.get(&[at]);
        shard.call(call, 2);
        assert_eq!(value(&shard.reply()), Some(&b"before"[..]));
    }
    assert!(shard.shard.coordinator.has_no_runs());
    let late = RunCall { run: Box::new(|_| Box::new(())), deadline: shard.now.instant };
    let bomb = Bomb;
    let late = RunCall { run: Box::new(move |_| Box::new(bomb)), ..late };
    shard.call(Call::Run(late), 3);
    assert_eq!(ran::<()>(shard.reply()), Err(RunError::NotApplied(NotApplied::Overloaded)));
}

#[test]
fn a_closure_is_answered_when_the_other_replica_has_its_writes() {
    let mut shard = of_two();
    let set = |shard: &mut LocalShard<'_>| {
        shard.set("a", "1").unwrap();
        shard.set("b", "2").unwrap();
        shard.get("a").unwrap().map(<[u8]>::to_vec)
    };
    let call = shard.run(set);
    shard.call(call, 1);
    assert!(shard.replies_are_none());
    let asked = shard.asked();
    assert_eq!(asked.len(), 2);
    for (request_id, is_last) in [(asked[0], false), (asked[1], true)] {
        let answer = Answer::Written { superseded_by: None, synced: true };
        shard.tell(Event::Answer { from: None, request_id, answer });
        assert_eq!(shard.replies_are_none(), !is_last);
    }
    assert_eq!(ran::<Option<Vec<u8>>>(shard.reply()), Ok(Some(b"1".to_vec())));

    let call = shard.run(set);
    shard.call(call, 2);
    let asked = shard.asked();
    shard.tell(Event::Answer {
        from: None,
        request_id: asked[0],
        answer: Answer::Written { superseded_by: None, synced: true },
    });
    shard.pass(Duration::from_secs(1));
    shard.turn();
    let first = WriteError::Indeterminate { acked: 1, needed: 2 };
    assert_eq!(ran::<Option<Vec<u8>>>(shard.reply()), Err(RunError::Write { failed: 1, first }));

    // A closure that panicked leaves writes behind for which no caller waits.
    let call = shard.run(|shard: &mut LocalShard<'_>| {
        shard.set("a", "3").unwrap();
        panic!("after it");
    });
    shard.call(call, 3);
    assert!(matches!(ran::<()>(shard.reply_among_asks()), Err(RunError::Panicked { .. })));
    shard.pass(Duration::from_secs(2));
    shard.turn();
    assert!(shard.replies_are_none());
    assert!(shard.shard.coordinator.has_no_runs());
}

impl<C> Driven<C> {
    /// Returns the reply, and leaves the requests in their place.
    fn reply_among_asks(&mut self) -> Outcome {
        let (replies, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.actions)
            .into_iter()
            .partition(|a| matches!(a, Action::Reply { .. }));
        self.actions = replies;
        let reply = self.reply();
        self.actions = rest;
        reply
    }
}

#[test]
fn a_closure_makes_room_at_once_or_is_told_that_there_is_none() {
    let config = |eviction| ShardConfig { memory: Some(2 << 20), eviction, ..config(1) };
    let fill = |shard: &mut LocalShard<'_>| {
        let mut results = Vec::new();
        for at in 0..10_000u32 {
            results.push(shard.set(at.to_le_bytes(), [0; 300]));
            // As if they were all read lately.
            let _ = shard.get(at.to_le_bytes());
        }
        results.push(shard.set("large", vec![0; 1 << 20]));
        assert_eq!(shard.get("large").unwrap().is_some(), results.last() == Some(&Ok(())));
        results
    };
    let mut shard: Driven = born(config(Eviction::Sieve), 1);
    let call = shard.run(fill);
    shard.call(call, 1);
    let results = ran::<Vec<Result<(), NotApplied>>>(shard.reply()).unwrap();
    assert!(
        results.iter().all(Result::is_ok),
        "{:?}",
        results.iter().find(|result| result.is_err())
    );

    let mut shard: Driven = born(config(Eviction::None), 1);
    let call = shard.run(fill);
    shard.call(call, 1);
    let results = ran::<Vec<Result<(), NotApplied>>>(shard.reply()).unwrap();
    assert_eq!(results.last(), Some(&Err(NotApplied::OutOfMemory { max_memory: 2 << 20 })));
}

#[test]
fn to_stop_answers_everybody_once() {
    let mut shard = of_two();
    let single = shard.set(b"single", b"");
    shard.call(single, 0);
    let calls =
        (0..1000u32).map(|at| shard.set(&at.to_le_bytes(), b"")).chain([shard.get(b"x")]).collect();
    shard.call(Call::Many(calls), 1);
    let read = shard.get(b"absent");
    let calls = vec![read];
    shard.call(Call::Many(calls), 2);
    let call = shard.run(|shard: &mut LocalShard<'_>| shard.set("a", "1").unwrap());
    shard.call(call, 3);
    // The first of the large group is done, the next 255 are under way.
    let first = shard.asked()[1];
    shard.tell(Event::Answer {
        from: None,
        request_id: first,
        answer: Answer::Written { superseded_by: None, synced: true },
    });
    let before = shard.replies();
    assert!(before.iter().all(|reply| reply.0 == 2), "{before:?}");
    shard.tell(Event::Stop(StoppedBy::Request));
    shard.turn();
    let mut replies = before;
    replies.extend(shard.replies());
    replies.sort_by_key(|reply| reply.0);
    assert_eq!(replies.iter().map(|reply| reply.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let indeterminate = WriteError::Indeterminate { acked: 1, needed: 2 };
    let first = indeterminate.clone();
    assert_eq!(ran::<()>(replies.pop().unwrap().1), Err(RunError::Write { failed: 1, first }));
    let outcomes = many(replies.remove(1).1);
    assert_eq!(outcomes.len(), 1001);
    assert_written(&outcomes[0]);
    for outcome in &outcomes[1..256] {
        assert!(
            matches!(outcome, Outcome::Written(Err(error)) if *error == indeterminate),
            "{outcome:?}"
        );
    }
    for outcome in &outcomes[256..1000] {
        let refused = WriteError::NotApplied(NotApplied::ShutDown);
        assert!(
            matches!(outcome, Outcome::Written(Err(error)) if *error == refused),
            "{outcome:?}"
        );
    }
    assert!(matches!(outcomes[1000], Outcome::Read(Err(ReadError::ShutDown))));
}

#[test]
fn an_abandoned_shard_holds_no_caller() {
    let caller = Arc::new(());
    let mut shard: Driven<Arc<()>> = born(config(2), 2);
    let calls = (0..1000u32).map(|at| shard.set(&at.to_le_bytes(), b"")).collect();
    let run = shard.run(|shard: &mut LocalShard<'_>| shard.set("a", "1").unwrap());
    for call in [shard.set(b"a", b""), shard.get(b"b"), Call::Many(calls), run] {
        shard.call(call, caller.clone());
    }
    shard.actions.clear();
    assert!(Arc::strong_count(&caller) >= 4);
    shard.shard.abandon();
    assert_eq!(Arc::strong_count(&caller), 1);
    assert!(shard.replies_are_none());
}

/// A write whose requests were lost came to the other replicas behind the next write of its key,
/// was taken for one that a stranger had overtaken, and was stamped above it: of a batch or a
/// closure that wrote a key twice, the first write was what remained.
#[test]
fn a_write_that_arrives_behind_the_next_one_of_its_key_is_not_stamped_above_it() {
    let mut shard = born(ShardConfig { quorums: Quorums::exactly(3, 2, 1), ..config(3) }, 3);
    let calls = vec![shard.set(b"k", b"old"), shard.set(b"k", b"new")];
    shard.call(Call::Many(calls), 1);
    let asked = shard.asked();
    let [old_1, old_2, new_1, new_2] = asked[..] else { panic!("{asked:?}") };
    for request_id in [old_1, old_2] {
        shard.tell(Event::Unsent { request_id });
    }
    for request_id in [new_1, new_2] {
        shard.tell(Event::Answer {
            from: None,
            request_id,
            answer: Answer::Written { superseded_by: None, synced: true },
        });
    }
    // Both are done, the first just before the second: it is not asked for again.
    let outcomes = many(shard.reply_among_asks());
    outcomes.iter().for_each(assert_written);
    shard.pass(Duration::from_millis(200));
    shard.turn();
    assert_eq!(shard.asked(), [0; 0]);
    shard.call(shard.get(b"k"), 2);
    assert_eq!(value(&shard.reply()), Some(&b"new"[..]));
}

impl Driven {
    /// What this node answers to the other one's question about a partition.
    fn compared(&mut self, partition: Partition) -> Compared {
        match self
            .answer(partition, Request::Compare(Compare { partitions: vec![partition], digest: 1 }))
        {
            Answer::Compared(compared) => compared,
            other => panic!("{other:?}"),
        }
    }

    /// … and when that tells that it has this alone of the partition, and has evicted up to there.
    fn survey(
        &mut self,
        partition: Partition,
        eviction_watermark: Version,
        has: &Entry,
    ) -> Surveyed {
        let list = self.shard.replica.copies.partition(partition).list().unwrap().reference();
        let hash = KeyHash::of(CLUSTER, has.key());
        let seen = vec![Seen { hash, version: has.version(), digest: has.exact_digest(hash) }];
        match self.answer(
            partition,
            Request::Survey(Survey { list, after: None, until: None, eviction_watermark, seen }),
        ) {
            Answer::Surveyed(surveyed) => surveyed,
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, key: &[u8]) -> Answer {
        let partition = KeyHash::of(CLUSTER, key).partition();
        let list = self.shard.replica.copies.partition(partition).list().unwrap().reference();
        self.answer(partition, Request::Read { list, key: key.into(), want: Want::Entry })
    }

    fn answer(&mut self, partition: Partition, request: Request) -> Answer {
        self.actions.clear();
        self.tell(Event::Request { via: 1, from: identity(1), partition, request_id: 1, request });
        match self.actions.pop() {
            Some(Action::Answer { answer, .. }) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// The other node writes through this one's replica.
    fn replicate(&mut self, key: &[u8], value: &[u8]) {
        let partition = KeyHash::of(CLUSTER, key).partition();
        let list = self.shard.replica.copies.partition(partition).list().unwrap().reference();
        let entry = Entry::new(key, Content::Value(value), Version(1), None);
        let request = Request::Write { list, entry };
        self.tell(Event::Request { via: 1, from: identity(1), partition, request_id: 1, request });
    }
}

/// Their digests differ for ever. What was evicted does not come back from the other replica, which
/// is told that it was.
#[test]
fn a_partition_that_lost_keys_to_eviction_is_compared_key_by_key() {
    let memory = Some(2 << 20);
    let mut shard: Driven = born(ShardConfig { memory, ..config(2) }, 2);
    let has_gaps = |compared: Compared| match compared {
        Compared::Differ(held) => held[0].has_gaps,
        Compared::Alike => panic!("nothing has this digest"),
    };
    for partition in Partition::all() {
        assert!(!has_gaps(shard.compared(partition)));
    }
    for at in 0..10_000u32 {
        shard.replicate(&at.to_le_bytes(), &[0; 300]);
    }
    let hash = |at: &u32| KeyHash::of(CLUSTER, &at.to_le_bytes());
    let is_here = |shard: &Driven, at: &u32| {
        shard.shard.replica.copies.store.get(hash(at), &at.to_le_bytes()).is_some()
    };
    let (here, evicted): (Vec<u32>, Vec<u32>) = (0..10_000).partition(|at| is_here(&shard, at));
    assert!(evicted.len() > 1000);
    let without: BTreeSet<Partition> = evicted.iter().map(|at| hash(at).partition()).collect();
    for partition in Partition::all() {
        assert_eq!(has_gaps(shard.compared(partition)), without.contains(&partition));
    }
    let same_partition =
        |gone: &u32| here.iter().find(|at| hash(at).partition() == hash(gone).partition());
    let (gone, there) =
        evicted.iter().find_map(|gone| Some((*gone, *same_partition(gone)?))).unwrap();
    let partition = hash(&gone).partition();
    let found = |eviction_watermark| Answer::Found {
        found: Found::Absent { eviction_watermark },
        synced: true,
    };
    assert_eq!(shard.read(&gone.to_le_bytes()), found(Version(1)));
    let entry = |at: u32, version| {
        Entry::new(&at.to_le_bytes(), Content::Value(b"v"), Version(version), None)
    };
    let now = shard.now;
    merge(&mut shard, now, partition, vec![entry(gone, 1)]);
    assert!(!is_here(&shard, &gone), "it does not come back");
    let old = shard.survey(partition, Version::ZERO, &entry(gone, 1));
    assert_eq!((old.missing, old.eviction_watermark), (vec![hash(&gone)], Version(1)));
    assert!(!old.entries.is_empty() && is_here(&shard, &there), "nothing was evicted there");
    shard.survey(partition, Version(1), &entry(gone, 1));
    assert!(!is_here(&shard, &there), "it may have been evicted there, so it is here too");
    merge(&mut shard, now, partition, vec![entry(gone, 2)]);
    assert!(is_here(&shard, &gone), "a newer one comes");
}

/// Found by the simulator (eviction, seed 70): a value was owed to a replica that did not answer.
/// After that a newer one was written, and evicted everywhere. The older one then reached all
/// replicas of the next list, and stayed.
#[test]
fn a_write_below_the_watermark_does_not_come_after_what_was_evicted() {
    let mut shard: Driven = born(ShardConfig { memory: Some(1 << 20), ..config(2) }, 2);
    let partition = KeyHash::of(CLUSTER, b"key").partition();
    let eviction_watermark = Version(5);
    let entry = |version| Entry::new(b"key", Content::Value(b"v"), Version(version), None);
    shard.shard.replica.copies.store.decline(partition, &entry(eviction_watermark.0));
    let is = |found| Answer::Found { found, synced: true };
    let steps = [
        (4, Some(eviction_watermark), Found::Absent { eviction_watermark }),
        (6, None, Found::Entry(entry(6))),
    ];
    for (version, superseded_by, found) in steps {
        let list = shard.shard.replica.copies.partition(partition).list().unwrap().reference();
        let answer = shard.answer(partition, Request::Write { list, entry: entry(version) });
        assert_eq!(answer, Answer::Written { superseded_by, synced: true });
        assert_eq!(shard.read(b"key"), is(found));
    }
}

/// If nothing is evicted, an entry that found no room is only missing here: others keep it, and it
/// can come later.
#[test]
fn what_finds_no_room_where_nothing_is_evicted_is_not_taken_for_evicted() {
    for (eviction, mark, has_gaps) in
        [(Eviction::None, Version::ZERO, false), (Eviction::Sieve, Version(1 << 40), true)]
    {
        let mut shard: Driven =
            born(ShardConfig { memory: Some(1 << 20), eviction, ..config(2) }, 2);
        let partition = KeyHash::of(CLUSTER, b"key").partition();
        let now = shard.now;
        let large = Entry::new(b"key", Content::Value(&[0; 1 << 20]), Version(1 << 40), None);
        let missing_bytes = merge(&mut shard, now, partition, vec![large]);
        assert_eq!(missing_bytes > 0, eviction == Eviction::None);
        let store = &shard.shard.replica.copies.store;
        assert_eq!(
            (store.eviction_watermark(partition), store.last_gap(partition) > 0),
            (mark, has_gaps),
            "{eviction:?}"
        );
    }
}

/// Told to merge what the other replica holds, this one fetches it; in another list it does not.
#[test]
fn a_replica_that_is_told_so_merges_the_others_copy() {
    let mut shard = of_two();
    let partition = Partition::new(7).unwrap();
    let list = shard.shard.replica.copies.partition(partition).list().unwrap().reference();
    for (number, fetches) in [(list.number + 1, 0), (list.number, 1)] {
        shard.actions.clear();
        let request = Request::Repair { list: ListRef { number, ..list }, wants_receipt: false };
        shard.tell(Event::Request { via: 1, from: identity(1), partition, request_id: 1, request });
        let is_fetch = |action: &&Action<u32>| {
            matches!(action, Action::Ask { request: Request::Fetch(_), .. })
        };
        assert_eq!(shard.actions.iter().filter(is_fetch).count(), fetches);
    }
}

#[test]
fn a_comparison_of_another_cores_partitions_breaks_the_protocol() {
    let mut shard: Driven = born(ShardConfig { cores: 2, ..config(2) }, 2);
    let partitions = vec![Partition::new(2).unwrap(), Partition::new(3).unwrap()];
    let request = Request::Compare(Compare { partitions, digest: 1 });
    let partition = Partition::new(2).unwrap();
    shard.tell(Event::Request { via: 1, from: identity(1), partition, request_id: 1, request });
    assert!(matches!(shard.actions[..], [Action::Violation { .. }]), "{:?}", shard.actions);
}

/// A peer of another version, or a broken one, answered a write with something else. The machine
/// ignored that and waited, until the caller got a timeout that said nothing of the cause.
#[test]
fn an_answer_that_does_not_fit_its_request_counts_as_none_and_is_asked_for_again() {
    let mut shard = of_two();
    let call = shard.write(b"key", Content::Value(b"v"), &WriteOptions::new());
    shard.call(call, 1);
    let [first] = shard.asked()[..] else { panic!("one other replica") };
    shard.tell(Event::Answer { from: None, request_id: first, answer: Answer::Purged });
    assert!(shard.replies().is_empty());
    shard.pass(RETRY_AFTER);
    shard.turn();
    let [again] = shard.asked()[..] else { panic!("it is asked again") };
    // A late answer to the first question means nothing any more.
    for request_id in [first, again] {
        let answer = Answer::Written { superseded_by: None, synced: true };
        shard.tell(Event::Answer { from: None, request_id, answer });
    }
    assert!(matches!(shard.reply(), Outcome::Written(Ok(()))));
}

/// Every kind of answer at every kind of question: a peer must not be able to stop a core.
#[test]
fn no_answer_of_a_peer_panics() {
    let answers = || {
        let (list, purge_horizon) = (None, Version::ZERO);
        let purged = PurgeMark::default();
        [
            Answer::Declined,
            Answer::NoRoom { max_memory: 7 },
            Answer::OtherList { list, purged },
            Answer::Written { superseded_by: None, synced: false },
            Answer::TooOld { purge_horizon: Version(u64::MAX >> 1), synced: true },
            Answer::Found { found: Found::Version(Version(1)), synced: true },
            Answer::Listed(Listed { list: None, purged, members_digest: 0 }),
            Answer::Promised { accepted: None, extent: Extent::Whole },
            Answer::Accepted,
            Answer::Refused { promised: Ballot::default() },
            Answer::Chunk(Chunk {
                entries: Vec::new(),
                next: None,
                sequence: 3,
                extent: Extent::Open,
                purged,
                is_behind: false,
            }),
            Answer::Surveyed(Surveyed {
                entries: Vec::new(),
                missing: Vec::new(),
                eviction_watermark: purge_horizon,
                outdated: Vec::new(),
                next: None,
            }),
            Answer::Received { covered: true },
            Answer::Compared(Compared::Alike),
            Answer::Purgeable { merges: 7, places: vec![9] },
            Answer::Purged,
            Answer::Relayed { places: vec![9] },
        ]
    };
    for read_quorum in [1, 2] {
        for at in 0..answers().len() {
            let quorums = Quorums::exactly(2, 2, read_quorum);
            let mut shard: Driven = born(ShardConfig { quorums, ..config(2) }, 2);
            let write = shard.write(b"key", Content::Value(b"v"), &WriteOptions::new());
            shard.call(write, 1);
            let hash = KeyHash::of(CLUSTER, b"other");
            let (deadline, quorum) = (shard.deadline(), Count::Exactly(2));
            let (key, local, anywhere) = (b"other".as_slice().into(), false, false);
            let read = ReadCall { key, hash, quorum, local, anywhere, deadline };
            shard.call(Call::Read(Box::new(read)), 2);
            for _ in 0..200 {
                for request_id in shard.asked() {
                    let answer = answers()[at].clone();
                    shard.tell(Event::Answer { from: None, request_id, answer });
                }
                shard.pass(Duration::from_millis(10));
                shard.turn();
            }
            let mut replies: Vec<u32> = shard.replies().into_iter().map(|reply| reply.0).collect();
            replies.sort();
            assert_eq!(replies, [1, 2], "each call is answered once: {:?}", answers()[at]);
        }
    }
}

/// Node 0 has asked node 1 what it lacks, or has given it something, and has no answer yet. A
/// deletion was forgotten then, and what came then brought back what had been deleted.
fn agrees_to_purge_while_entries_are_under_way(is_given: bool) -> bool {
    let mut shard = of_two();
    shard.replicate(b"key", b"value");
    let hash = KeyHash::of(CLUSTER, b"key");
    let partition = hash.partition();
    let list = shard.shard.replica.copies.partition(partition).list().unwrap().reference();
    let members_digest = shard.shard.node.placement.digest_of_all();
    let dead = vec![(hash, Version(1))];
    let question = || Request::Purge { list, members_digest, dead: dead.clone(), route: None };
    let agrees = |shard: &mut Driven| {
        matches!(shard.answer(partition, question()), Answer::Purgeable { .. })
    };
    assert!(agrees(&mut shard));
    let (request, asker, answer) = if is_given {
        let listed = Listed { list: None, purged: PurgeMark::default(), members_digest: 0 };
        let give = Request::Give { list, entries: Vec::new() };
        (give, ReplicaAsker::Give(partition), Answer::Listed(listed))
    } else {
        let (eviction_watermark, seen) = (Version::ZERO, Vec::new());
        let survey = Survey { list, after: None, until: None, eviction_watermark, seen };
        let asker = ReplicaAsker::Survey { round: 1, partition, after: None };
        (Request::Survey(survey), asker, Answer::Declined)
    };
    let (_, mut turn) = shard.shard.split(shard.now, &mut shard.actions);
    let request_id = turn.ask(identity(1), partition, request, asker).unwrap();
    let agreed = agrees(&mut shard);
    shard.tell(Event::Answer { from: None, request_id, answer });
    assert!(agrees(&mut shard), "nothing is under way any more");
    agreed
}

#[test]
fn no_deletion_is_forgotten_while_entries_are_under_way() {
    for is_given in [false, true] {
        assert!(!agrees_to_purge_while_entries_are_under_way(is_given));
        #[cfg(feature = "sim")]
        {
            let mutant = Some(ProtocolMutant::GivenUnseen);
            crate::mutants::set_for_this_thread(mutant, u16::MAX);
            assert!(agrees_to_purge_while_entries_are_under_way(is_given), "the mutant is noticed");
            crate::mutants::set_for_this_thread(None, u16::MAX);
        }
    }
}

// ── lists ──

/// Asks the first of three replicas to accept a next list, and returns whether it counts in its own
/// list then: whether it answers a read, and applies a write.
fn counts_after_accepting() -> (bool, bool) {
    let mut shard = of_three(false);
    let partition = KeyHash::of(CLUSTER, b"k").partition();
    let list = shard.shard.replica.copies.partition(partition).list().unwrap().clone();
    let members = (1..4).map(identity).collect();
    let value = list.next(&Wish { members, witnesses: Vec::new() });
    let ballot = Ballot::above(Ballot::default(), &identity(1));
    let accept = Request::Accept { list: list.reference(), ballot, value };
    assert_eq!(shard.answer(partition, accept), Answer::Accepted);
    let answers = !matches!(shard.read(b"k"), Answer::OtherList { .. });
    shard.replicate(b"k", b"value");
    (answers, shard.live() == 1)
}

/// Whoever decides the next list counts on it that this member counts no more.
#[test]
fn who_has_accepted_a_next_list_does_not_count_in_its_own() {
    assert_eq!(counts_after_accepting(), (false, false));
    #[cfg(feature = "sim")]
    {
        let mutant = crate::mutants::ProtocolMutant::AcceptedUnsealed;
        crate::mutants::set_for_this_thread(Some(mutant), u16::MAX);
        assert_eq!(counts_after_accepting(), (true, true));
        crate::mutants::set_for_this_thread(None, u16::MAX);
    }
}

// ── every live replica ──

/// Returns the first of three replicas, two of which must acknowledge. `every_live` is what plain
/// writes do.
fn of_three(every_live: bool) -> Driven {
    let quorums = Quorums::exactly(3, 2, 1);
    born(ShardConfig { quorums, every_live, ..config(3) }, 3)
}

fn written(shard: &mut Driven, request_id: u64) {
    let answer = Answer::Written { superseded_by: None, synced: true };
    shard.tell(Event::Answer { from: None, request_id, answer });
}

fn every_live() -> WriteOptions {
    WriteOptions::new().quorum(Quorum::EveryLive)
}

/// Makes a call of one write, lets one of the two others acknowledge it and then the second.
/// Returns whether the reply came with the first, and the reply.
fn reply_with_the_first(shard: &mut Driven, call: Call) -> (bool, Outcome) {
    shard.call(call, 1);
    let [first, second] = shard.asked()[..] else { panic!("two others are asked") };
    written(shard, first);
    let mut replies = shard.replies();
    let is_with_first = !replies.is_empty();
    written(shard, second);
    replies.extend(shard.replies());
    assert_eq!(replies.len(), 1);
    (is_with_first, replies.remove(0).1)
}

#[test]
fn each_kind_of_write_waits_for_every_live_replica_if_it_is_asked_to() {
    let content = Content::Value(b"v");
    for by_default in [false, true] {
        let plain = WriteOptions::new();
        let two = WriteOptions::new().quorum(Quorum::Count(2));
        for (options, waits) in [(plain, by_default), (every_live(), true), (two, false)] {
            let one = |shard: &Driven| shard.write(b"key", content, &options);
            let mut shard = of_three(by_default);
            let call = one(&shard);
            let (at_once, reply) = reply_with_the_first(&mut shard, call);
            assert_eq!(at_once, !waits, "{options:?}");
            assert_written(&reply);
            let mut shard = of_three(by_default);
            let batch = Call::Many(vec![one(&shard)]);
            let (at_once, reply) = reply_with_the_first(&mut shard, batch);
            assert_eq!(at_once, !waits, "a batch, {options:?}");
            assert_written(&many(reply)[0]);
            let mut shard = of_three(by_default);
            let options = options.clone();
            let run = shard.run(move |shard| shard.set_with(b"key", b"v", &options));
            let (at_once, reply) = reply_with_the_first(&mut shard, run);
            assert_eq!(at_once, !waits, "a closure");
            assert_eq!(ran(reply), Ok(Ok::<(), NotApplied>(())));
        }
        let mut shard = of_three(by_default);
        let soon = every_live().ttl(Duration::from_secs(5));
        let call = shard.write(b"key", content, &soon);
        reply_with_the_first(&mut shard, call);
        let touch = shard.touch(b"key", Some(Duration::from_secs(60)));
        shard.call(touch, 1);
        let [question] = shard.asked()[..] else { panic!("one other confirms the value") };
        let found = Found::Absent { eviction_watermark: Version::ZERO };
        let answer = Answer::Found { found, synced: true };
        shard.tell(Event::Answer { from: None, request_id: question, answer });
        let [first, second] = shard.asked()[..] else { panic!("two others are asked to write") };
        written(&mut shard, first);
        let mut replies = shard.replies();
        assert_eq!(replies.is_empty(), by_default, "a change of expiry");
        written(&mut shard, second);
        replies.extend(shard.replies());
        assert!(matches!(replies[..], [(1, Outcome::Touched(Ok(true)))]), "{replies:?}");
    }
}

#[test]
fn a_write_waits_for_a_silent_replica_for_its_patience_and_for_its_own_time_at_most() {
    let mut shard = of_three(false);
    let call = shard.write(b"key", Content::Value(b"v"), &every_live());
    shard.call(call, 1);
    let [first, second] = shard.asked()[..] else { panic!("two others are asked") };
    written(&mut shard, first);
    shard.pass(DEFAULT_EVERY_LIVE_PATIENCE / 2);
    shard.turn();
    assert!(shard.replies().is_empty());
    shard.pass(DEFAULT_EVERY_LIVE_PATIENCE / 2);
    shard.turn();
    assert_written(&shard.reply());
    // What it lacks is owed to it from then on, and no more is waited for.
    shard.turn();
    assert_eq!(shard.shard.coordinator.hinted_writes(), 1);
    written(&mut shard, second);
    assert_eq!(shard.shard.coordinator.hinted_writes(), 0);

    let short = every_live().timeout(Duration::from_millis(1));
    let Call::Write(call) = shard.write(b"key", Content::Value(b"v"), &short) else { panic!() };
    let deadline = shard.now.instant + Duration::from_millis(1);
    shard.call(Call::Write(WriteCall { deadline, ..call }), 1);
    let [first, _] = shard.asked()[..] else { panic!("two others are asked") };
    written(&mut shard, first);
    shard.pass(Duration::from_millis(1));
    shard.turn();
    assert_written(&shard.reply());
}

#[test]
fn a_write_that_waits_for_more_than_it_needs_is_acknowledged_when_the_engine_stops() {
    let mut shard = of_three(false);
    for caller in [1, 2] {
        let key = [caller as u8];
        let call = shard.write(&key, Content::Value(b"v"), &every_live());
        shard.call(call, caller);
    }
    let asked = shard.asked();
    written(&mut shard, asked[0]);
    shard.tell(Event::Stop(StoppedBy::Request));
    let [(1, first), (2, second)] = &shard.replies()[..] else { panic!("two replies") };
    assert_written(first);
    let missing = WriteError::Indeterminate { acked: 1, needed: 2 };
    assert!(matches!(second, Outcome::Written(Err(error)) if *error == missing), "{second:?}");
}

/// The write behind it was acknowledged by W: the one before it is done with that, and waits only
/// for what it asked for.
#[test]
fn a_write_that_was_overwritten_still_waits_for_every_live_replica() {
    let mut shard = of_three(false);
    let first = shard.write(b"key", Content::Value(b"1"), &every_live());
    let second = shard.write(b"key", Content::Value(b"2"), &WriteOptions::new());
    shard.call(first, 1);
    let before = shard.asked();
    shard.call(second, 2);
    let after = shard.asked();
    written(&mut shard, after[0]);
    let replies = shard.replies();
    assert!(matches!(replies[..], [(2, Outcome::Written(Ok(())))]), "{replies:?}");
    written(&mut shard, before[0]);
    assert!(shard.replies().is_empty(), "the third has neither of them");
    written(&mut shard, before[1]);
    let replies = shard.replies();
    assert!(matches!(replies[..], [(1, Outcome::Written(Ok(())))]), "{replies:?}");
    written(&mut shard, after[1]);
    assert_eq!(shard.shard.coordinator.hinted_writes(), 0);

    // If the third stays silent, its patience ends it.
    let first = shard.write(b"key", Content::Value(b"3"), &every_live());
    let second = shard.write(b"key", Content::Value(b"4"), &WriteOptions::new());
    shard.call(first, 1);
    shard.call(second, 2);
    let asked = shard.asked();
    written(&mut shard, asked[2]);
    assert!(matches!(shard.replies()[..], [(2, Outcome::Written(Ok(())))]));
    shard.pass(DEFAULT_EVERY_LIVE_PATIENCE);
    shard.turn();
    assert!(matches!(shard.replies()[..], [(1, Outcome::Written(Ok(())))]));
}

/// What other data centers relay waits here for replicas that are slow, and was bounded by how many
/// nodes relay alone.
#[test]
fn what_is_relayed_here_beyond_the_limit_is_sent_again_by_whom_it_is_kept() {
    // A sixteenth of it may wait.
    let mut shard: Driven = born(ShardConfig { memory: Some(16 << 20), ..config(2) }, 2);
    let member = |number, data_center: &str| Member {
        identity: identity(number),
        id: NodeId::new(&format!("n{number}")),
        cores: 1,
        site: Site { data_center: data_center.into(), ..Site::default() },
        leaving: false,
    };
    let placement =
        Placement::new(vec![member(0, ""), member(1, "")], Count::Exactly(2), 2, Gone::new());
    let placement = placement.with_other_data_centers(vec![member(9, "far")]);
    let (placement, stage) = (Arc::new(placement), Stage::Born { members_digest: 0 });
    shard.tell(Event::Placement { placement, stage });
    let relay = |shard: &mut Driven, key: &[u8], bytes: usize| {
        let value = vec![0; bytes];
        let version = Version(WALL_MICROS << 10);
        let entries = vec![Entry::new(key, Content::Value(&value), version, None)];
        let (partition, request) =
            (KeyHash::of(CLUSTER, key).partition(), Request::Relay { entries, route: None });
        shard.actions.clear();
        let from = identity(9);
        shard.tell(Event::Request { via: 2, from, partition, request_id: 5, request });
        shard.turn();
        let is_answer = |action: &Action<u32>| matches!(action, Action::Answer { via: 2, .. });
        shard.actions.iter().position(is_answer).map(|at| match shard.actions.remove(at) {
            Action::Answer { answer, .. } => answer,
            _ => unreachable!("it was an answer"),
        })
    };
    // However large, one is always taken.
    assert_eq!(relay(&mut shard, b"a", 2 << 20), None);
    let first = std::mem::take(&mut shard.actions);
    assert_eq!(relay(&mut shard, b"b", 100), Some(Answer::Busy));
    shard.actions = first;
    shard.others_acknowledge();
    assert_eq!(relay(&mut shard, b"b", 700 << 10), None);
    assert_eq!(relay(&mut shard, b"c", 200 << 10), None);
    assert_eq!(relay(&mut shard, b"d", 200 << 10), Some(Answer::Busy));
}
