//! Why a Service has no address: each reason with its word for programs, its sentence for people, and what would help.

use std::net::IpAddr;

use client::Key;
use service_model::Family;
use thiserror::Error;

use service_model::Protocol;

/// A reason, said in an Event and in the Service's condition.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Pending {
    #[error(
        "there is no pool of addresses; hint: start with --load-balancer-pool FIRST-LAST, or name a pool in ConfigMap {config_map}"
    )]
    NoPool { config_map: String },
    #[error(
        "no pool hands out addresses unasked to namespace `{namespace}`; hint: ask for one of {pools} by annotation portolan.dev/load-balancer-pool"
    )]
    NotAutomatic { namespace: String, pools: String },
    #[error("there is no pool `{pool}`; hint: there is {known}")]
    UnknownPool { pool: String, known: String },
    #[error("pool {pool} is not for namespace `{namespace}`; hint: name another pool, or add the namespace to it")]
    NotForNamespace { pool: String, namespace: String },
    #[error(
        "{family} is wanted, and {pools} has none; hint: add {family} addresses to a pool, or choose another family in spec.ipFamilies"
    )]
    NoFamily { family: Family, pools: String },
    #[error(
        "all {used} {family} addresses of {pools} are in use; hint: enlarge the pool, delete a Service of type LoadBalancer, or share an address with metallb.io/allow-shared-ip"
    )]
    Full { family: Family, used: usize, pools: String },
    #[error("{address} is in no pool; hint: ask for an address of {pools}")]
    OutsidePools { address: IpAddr, pools: String },
    #[error("{address} is not in pool `{pool}`, which the Service asks for as well; hint: drop one of the two")]
    OutsidePool { address: IpAddr, pool: String },
    #[error("{address} belongs to the nodes' network itself; hint: ask for another")]
    Reserved { address: IpAddr },
    #[error("{address} is in use by Service {by}, {why}")]
    Taken { address: IpAddr, by: Key, why: NoSharing },
    #[error("{address} is asked for, but the Service is {families}; hint: ask for an address of its family")]
    OtherFamily { address: IpAddr, families: &'static str },
    #[error("`{text}` is no address; hint: write one such as 192.168.1.240")]
    NoAddress { text: String },
    #[error("both {one} and {other} are asked for, but a Service has one address of each family")]
    TwoOfOneFamily { one: IpAddr, other: IpAddr },
    #[error(
        "spec.loadBalancerIP says {field} and the annotation says {annotation}; hint: drop the field, which is deprecated"
    )]
    Contradiction { field: IpAddr, annotation: String },
}

/// Why two Services cannot share an address. The rules are MetalLB's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoSharing {
    #[error("and both must name the same key in metallb.io/allow-shared-ip to share it")]
    Keys,
    #[error("which has {protocol}/{port} as well; hint: Services that share an address need different ports")]
    Port { protocol: Protocol, port: u16 },
    #[error(
        "and with externalTrafficPolicy Local only Services of the same selector can share; hint: use policy Cluster for both"
    )]
    Pods,
}

impl Pending {
    /// The reason in one word, as a condition has it.
    pub fn reason(&self) -> &'static str {
        match self {
            Pending::NoPool { .. } => "NoPool",
            Pending::NotAutomatic { .. } => "NoAutomaticPool",
            Pending::UnknownPool { .. } => "PoolNotFound",
            Pending::NotForNamespace { .. } => "PoolNotForNamespace",
            Pending::NoFamily { .. } => "NoAddressFamily",
            Pending::Full { .. } => "PoolExhausted",
            Pending::OutsidePools { .. } | Pending::OutsidePool { .. } => "AddressNotInPool",
            Pending::Reserved { .. } => "AddressReserved",
            Pending::Taken { .. } => "AddressInUse",
            Pending::OtherFamily { .. } => "AddressFamilyMismatch",
            Pending::NoAddress { .. } | Pending::TwoOfOneFamily { .. } | Pending::Contradiction { .. } => {
                "InvalidRequest"
            }
        }
    }
}
