//! Roles: which permissions go together.

use super::permission::Permission;

/// What somebody is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Keeps replicas of its own services registered.
    Replica,
    /// Follows the registry and reports.
    DataPlane,
    /// Looks at everything, changes nothing.
    Reader,
    /// May do everything that people do, to every service.
    Operator,
}

impl Role {
    pub(crate) const ALL: [Self; 4] = [Self::Replica, Self::DataPlane, Self::Reader, Self::Operator];

    /// As files and people name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::DataPlane => "data-plane",
            Self::Reader => "reader",
            Self::Operator => "operator",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether it has a permission.
    pub(crate) fn has(self, permission: Permission) -> bool {
        match permission {
            Permission::Open => true,
            Permission::Read => matches!(self, Self::Reader | Self::Operator),
            Permission::ReadOne => matches!(self, Self::Replica | Self::Reader | Self::Operator),
            Permission::Register => matches!(self, Self::Replica | Self::Operator),
            Permission::Follow => self == Self::DataPlane,
            Permission::Operate => self == Self::Operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_read_by_the_name_that_it_is_shown_by() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.name()), Some(role));
        }
        assert_eq!(Role::parse("admin"), None);
    }

    #[test]
    fn only_operators_change_how_the_gateway_works_and_only_data_planes_follow_it() {
        let who = |permission| Role::ALL.into_iter().filter(|role| role.has(permission)).collect::<Vec<_>>();
        assert_eq!(who(Permission::Operate), [Role::Operator]);
        assert_eq!(who(Permission::Follow), [Role::DataPlane]);
        assert_eq!(who(Permission::Register), [Role::Replica, Role::Operator]);
        assert_eq!(who(Permission::Read), [Role::Reader, Role::Operator]);
        assert_eq!(who(Permission::ReadOne), [Role::Replica, Role::Reader, Role::Operator]);
    }
}
