//! Clusters under the simulator: the real control and shards, in virtual time, over a network that
//! loses, delays and cuts as it is told. One seed is one history.

mod support;

mod anti_entropy;
mod chain;
mod chaos;
mod clocks;
mod clusters;
mod data_centers;
mod detection;
mod duplicates;
mod eviction;
mod heartbeat;
mod histories;
mod hubs;
mod lists;
mod majority;
mod purge;
mod quorums;
mod relays;
mod reminders;
mod safety;
mod sealing;
mod seeds;
mod stuck;
mod transports;
