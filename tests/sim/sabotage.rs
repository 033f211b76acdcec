//! Bugs that a run can have on purpose, each in the simulation's own shell: a check that no bug can fail checks nothing.

/// One bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The writer answers before the store has committed.
    AckBeforeCommit,
    /// A restart finds one record fewer than the store has.
    ForgetARecord,
    /// A failed commit is taken for one that changed nothing.
    TrustFailedCommits,
    /// An operator's stale lease is taken for his word.
    TakeAnyLease,
    /// Lapsed leases are never handed to the writer.
    NeverExpire,
    /// The store is asked for removals of replicas whose leases can still be held and renewed.
    KeepWhatGoes,
    /// The guard's word is not heard.
    BelieveEveryLapse,
    /// Lost replicas that renew are never found.
    NeverFind,
    /// A replica that fails on one data plane counts as failing on all.
    BelieveOneDataPlane,
    /// Replicas are evicted although nothing else of their service passes, or they are too many.
    EvictWhatIsHeld,
    /// Overrides are never ended by time.
    KeepOverrides,
    /// Every drain may take the last ready replica.
    DrainTheLast,
    /// Leases are granted for three quarters of their time.
    GrantLess,
    /// A heartbeat that comes too late grants the lease anew.
    ReviveLapsed,
    /// Deltas leave one replica out.
    SkipPartOfDelta,
    /// A refused message is half applied.
    ApplyRefused,
    /// A data plane whose stream ended never opens another.
    NeverReconnect,
    /// Removals do not reach the routing table.
    KeepRemoved,
    /// A request that the client breaks off keeps its permit.
    DropPermit,
    /// Retries may go to replicas that the request has tried.
    ForgetTried,
    /// Every request counts as idempotent.
    RetryEverything,
    /// Retries do not ask the budget.
    IgnoreBudget,
    /// Requests that must not be sent twice are probes as good as any.
    SpareNobody,
    /// Requests that must not be sent twice go where others wait as well.
    PileUp,
    /// A probe's permit is given back as soon as the probe is sent.
    ReturnProbeEarly,
    /// Successes are settled as failures now and then.
    BlameSuccess,
    /// Failures are settled as neutral.
    ExcuseFailure,
    /// Responses are settled without how long they took.
    ForgetLatency,
    /// Who leaves before an answer says nothing of having waited.
    ForgetWaits,
    /// Who leaves before an answer says that it has always waited.
    ExaggerateWaits,
    /// The table's policies never fail open.
    NeverFailOpen,
    /// The table's policies bound no breakers and do not only observe.
    LiftBounds,
    /// Picks are told the time at which the data plane started.
    StopPickClock,
    /// Now and then a turn of the rotation goes to nobody.
    WasteTurns,
}
