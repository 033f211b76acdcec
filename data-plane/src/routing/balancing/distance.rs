//! How far a replica is from a data plane, as far as regions and zones say.

use gateway_proto::Locality;

/// From near to far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Distance {
    /// In the same zone; also whatever a data plane that knows no place of its own sees.
    #[default]
    Zone,
    /// In the same region, and not known to be in the same zone.
    Region,
    /// Elsewhere, or nobody knows where.
    Elsewhere,
}

impl Distance {
    /// From a data plane at `here`, which knows its region, its zone, both or neither, to a replica at `there`.
    ///
    /// Zones of one name are the same, unless their regions are known to differ. Names know case.
    pub fn between(here: &Locality, there: &Locality) -> Self {
        let is_same = |one: &str, other: &str| !one.is_empty() && one == other;
        let same_region = is_same(here.region(), there.region());
        let other_region = !same_region && !here.region().is_empty() && !there.region().is_empty();
        if here.region().is_empty() && here.zone().is_empty()
            || is_same(here.zone(), there.zone()) && !other_region
            || same_region && here.zone().is_empty()
        {
            Self::Zone
        } else if same_region {
            Self::Region
        } else {
            Self::Elsewhere
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1;

    use super::*;

    fn at(region: &str, zone: &str) -> Locality {
        Locality::parse(v1::Locality { region: region.into(), zone: zone.into() }).unwrap()
    }

    #[test]
    fn zones_are_near_regions_are_farther_and_all_else_is_far() {
        let here = at("eu", "eu-1a");
        for (there, distance) in [
            (at("eu", "eu-1a"), Distance::Zone),
            (at("", "eu-1a"), Distance::Zone),
            (at("eu", "eu-1b"), Distance::Region),
            (at("eu", ""), Distance::Region),
            (at("us", "eu-1a"), Distance::Elsewhere),
            (at("us", "us-1a"), Distance::Elsewhere),
            (at("", "eu-1b"), Distance::Elsewhere),
            (at("", ""), Distance::Elsewhere),
            (at("EU", "EU-1A"), Distance::Elsewhere),
        ] {
            assert_eq!(Distance::between(&here, &there), distance, "{there:?}");
        }
    }

    #[test]
    fn who_knows_less_of_itself_tells_less_apart() {
        let of_region = [at("eu", "eu-1a"), at("eu", ""), at("us", ""), at("", "")];
        let from_region = of_region.map(|there| Distance::between(&at("eu", ""), &there));
        assert_eq!(from_region, [Distance::Zone, Distance::Zone, Distance::Elsewhere, Distance::Elsewhere]);
        let from_zone = [at("eu", "z"), at("", "y")].map(|there| Distance::between(&at("", "z"), &there));
        assert_eq!(from_zone, [Distance::Zone, Distance::Elsewhere]);
        let from_nowhere = [at("eu", "z"), at("", "")].map(|there| Distance::between(&at("", ""), &there));
        assert_eq!(from_nowhere, [Distance::Zone; 2]);
    }
}
