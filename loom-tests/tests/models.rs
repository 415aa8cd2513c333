//! Each model holds, and rejects its mutants.

#![cfg(gridkv_loom)]

macro_rules! models {
    ($($name:ident = $model:ident;)*) => {
        $(mod $name {
            #[test]
            fn holds() {
                gridkv_loom_tests::$model.holds();
            }

            #[test]
            fn rejects_its_mutants() {
                gridkv_loom_tests::$model.rejects_its_mutants();
            }
        })*
    };
}

models! {
    publish = PUBLISH;
    handles = HANDLES;
    stamp = STAMP;
    pin = PIN;
    repin = REPIN;
    register = REGISTER;
    reuse = REUSE;
    stash = STASH;
    split = SPLIT;
    growth = GROWTH;
    link = LINK;
    merge = MERGE;
    eviction = EVICTION;
    expiry = EXPIRY;
    partition = PARTITION;
    stashed_partition = STASHED_PARTITION;
    walk = WALK;
    calls_ring = RING;
    calls_wrap = WRAP;
    calls_park = PARK;
    calls_preempted = PREEMPTED;
    calls_failed_wake = FAILED_WAKE;
    calls_answer = ANSWER;
    calls_timeout = TIMEOUT;
    calls_late_answer = LATE_ANSWER;
    calls_room = ROOM;
    calls_rooms = ROOMS;
    calls_room_timeout = ROOM_TIMEOUT;
    calls_stop = STOP;
}
