//! The whole system in one value, and the loop that moves it from one event to the next.

use std::time::Duration;

use control_plane::registry::{Command, PolicyWish, Said, Scope};
use gateway_proto::v1;

use crate::{
    checks::{Checked, Ledger},
    control::Control,
    env::{Env, Phase, SECOND},
    event::{Ask, Call, ControlEvent, Event, OwnerEvent},
    journal::note,
    node::Node,
    owner::Owner,
    sabotage::Sabotage,
};

/// How long each phase lasts, in seconds: healing takes a stream's silence of 15 s, a back-off and a lease.
const PHASES: [(Phase, u32); 4] =
    [(Phase::Calm, 30), (Phase::Well, 25), (Phase::Leaving, 3), (Phase::Over, 7)];

/// Everything there is.
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) control: Control,
    pub(crate) nodes: Vec<Node>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) ledger: Ledger,
    /// Ports given out so far.
    pub(crate) ports: usize,
}

impl World {
    /// The world of a seed, at its beginning.
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut env = Env::new(seed, sabotage);
        let control = Control::new(&mut env);
        let nodes = (0..env.plan.nodes).map(|number| Node::new(&mut env, number)).collect();
        let mut owners = Vec::new();
        for service in 0..env.plan.services {
            for within in 0..env.plan.owners_per_service {
                let number = owners.len();
                owners.push(Owner::new(&mut env, number, service, within));
                let start = env.between(SECOND / 1000, SECOND);
                env.after(start, Event::Owner(number, OwnerEvent::Start));
            }
        }
        env.after(SECOND, Event::Trouble);
        if let Some(eviction) = env.plan.eviction {
            env.after(SECOND / 2, set_eviction(eviction));
        }
        let mut at = Duration::ZERO;
        for (phase, seconds) in PHASES {
            at += SECOND * seconds;
            env.after(at, Event::Enter(phase));
        }
        Self { env, control, nodes, owners, ledger: Ledger::default(), ports: 2000 }
    }

    /// Runs to the end, or to the first invariant that does not hold.
    pub(crate) fn run(&mut self) -> Checked {
        while self.env.phase != Phase::Over {
            let Some(event) = self.env.next() else { break };
            self.step(event)?;
        }
        Ok(())
    }

    fn step(&mut self, event: Event) -> Checked {
        let Self { env, control, nodes, owners, ledger, .. } = self;
        match event {
            Event::Trouble => self.trouble(),
            Event::Enter(phase) => self.enter(phase),
            Event::Tidy => {
                self.tidy();
                Ok(())
            }
            Event::Control(event) => control.handle(env, ledger, event),
            Event::Owner(number, event) => {
                owners[number].handle(env, event);
                Ok(())
            }
            Event::Node(number, event) => nodes[number].handle(env, ledger, owners, event),
        }
    }

    fn enter(&mut self, phase: Phase) -> Checked {
        note!(&mut self.env, "phase: {phase:?}");
        self.env.phase = phase;
        match phase {
            Phase::Trouble | Phase::Leaving => Ok(()),
            Phase::Calm => {
                self.calm();
                Ok(())
            }
            Phase::Well => self.everything_has_healed(),
            Phase::Over => {
                self.everything_has_healed()?;
                self.nodes.iter().try_for_each(Node::permits_have_come_back)
            }
        }
    }

    fn everything_has_healed(&self) -> Checked {
        self.ledger.lost_replicas_are_found_or_gone()?;
        self.nodes
            .iter()
            .enumerate()
            .try_for_each(|(number, node)| self.ledger.every_data_plane_converges(number, &node.snapshot))
    }
}

/// An operator says when replicas are evicted.
fn set_eviction(eviction: v1::EvictionPolicy) -> Event {
    let wish = PolicyWish {
        scope: Scope::All,
        change: v1::Policy { service: "*".into(), eviction: Some(eviction), ..Default::default() },
        mask: None,
        etag: String::new(),
        allow_missing: true,
        must_be_missing: false,
        allow_fault: true,
        said: Said::because("evictions"),
    };
    let ask = Ask::Change(Command::UpdatePolicy(Box::new(wish)));
    Event::Control(ControlEvent::Call(Call { from: None, ask }))
}
