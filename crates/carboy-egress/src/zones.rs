//! What a bottle says in names below a wildcard, counted for each zone (B30).
//!
//! A name that only a wildcard allows is looked up outside as soon as a request for it is to be dialled, and whoever serves
//! the zone reads its labels, which the bottle chooses. So a run may ask for so many names of a zone, with so many octets in
//! their labels, of which so many may look like data. Content networks need a few dozen short names. What an exact route
//! names is the operator's word, and not counted. *Must never* count a name twice, or let one through that is not counted.

use std::collections::HashMap;

use carboy_core::host::DnsName;

/// Shorter labels, all of a name together, are never taken for data: `d111111abcdef8` is a host of a content network.
const DATA_OCTETS_MIN: usize = 16;
/// Bits for each octet, by the name's own letters: hex has 3 and more, a name of few letters says little.
const DATA_BITS_MIN: f64 = 2.5;
/// Letters and digits take turns in data.
const DATA_TURNS_MIN: usize = 3;
/// No word has so many consonants in a row.
const DATA_CONSONANTS_MIN: usize = 6;

/// How much names of one zone may say in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneLimits {
    /// Names of one zone.
    pub names_max: usize,
    /// Octets of all their labels below the zone, dots aside.
    pub octets_max: usize,
    /// Of those, octets of names that look like data.
    pub data_octets_max: usize,
    /// Octets of one name that looks like data.
    pub name_data_octets_max: usize,
}

impl Default for ZoneLimits {
    fn default() -> Self {
        ZoneLimits { names_max: 256, octets_max: 4096, data_octets_max: 1024, name_data_octets_max: 96 }
    }
}

/// What was said in names of each zone so far. As many zones as there were routes.
pub(crate) struct Zones {
    limits: ZoneLimits,
    said: HashMap<DnsName, Said>,
}

#[derive(Clone, Copy, Default)]
struct Said {
    names: usize,
    octets: usize,
    data_octets: usize,
}

impl Zones {
    pub(crate) fn new(limits: ZoneLimits) -> Zones {
        Zones { limits, said: HashMap::new() }
    }

    /// Counts a name that was not asked for before; what it is refused for, in words.
    pub(crate) fn count(&mut self, zone: &DnsName, name: &DnsName) -> Result<(), String> {
        let ZoneLimits { names_max, octets_max, data_octets_max, name_data_octets_max } = self.limits;
        let below: String = labels(zone, name).chars().filter(|c| *c != '.').collect();
        let data = if looks_like_data(&below) { below.len() } else { 0 };
        if data > name_data_octets_max {
            return Err(format!(
                "{data} octets of what looks like data in one name, of {name_data_octets_max} at most"
            ));
        }
        let so_far = self.said.get(zone).copied().unwrap_or_default();
        let said = Said {
            names: so_far.names + 1,
            octets: so_far.octets + below.len(),
            data_octets: so_far.data_octets + data,
        };
        let spent = |what: &str, most: usize| {
            Err(format!("below {zone} this run has asked for {most} {what}, the most it may"))
        };
        if said.names > names_max {
            return spent("names", names_max);
        }
        if said.octets > octets_max {
            return spent("octets of labels", octets_max);
        }
        if said.data_octets > data_octets_max {
            return spent("octets of what looks like data", data_octets_max);
        }
        self.said.insert(zone.clone(), said);
        Ok(())
    }
}

/// What stands before the zone.
fn labels<'n>(zone: &DnsName, name: &'n DnsName) -> &'n str {
    name.as_str().strip_suffix(zone.as_str()).unwrap_or(name.as_str())
}

/// Is this text more like the output of an encoder than like words, by its letters alone?
fn looks_like_data(text: &str) -> bool {
    if text.len() < DATA_OCTETS_MIN || bits_for_each_octet(text) < DATA_BITS_MIN {
        return false;
    }
    let kinds: Vec<bool> = text.bytes().filter(u8::is_ascii_alphanumeric).map(|b| b.is_ascii_digit()).collect();
    let turns = kinds.windows(2).filter(|pair| pair[0] != pair[1]).count();
    turns >= DATA_TURNS_MIN || consonants_in_a_row(text) >= DATA_CONSONANTS_MIN
}

fn consonants_in_a_row(text: &str) -> usize {
    let consonant = |c: char| c.is_ascii_alphabetic() && !"aeiouy".contains(c);
    text.split(|c: char| !consonant(c)).map(str::len).max().unwrap_or(0)
}

/// Shannon's measure, with the text's own frequencies.
fn bits_for_each_octet(text: &str) -> f64 {
    let mut counts = [0_u32; 256];
    text.bytes().for_each(|b| counts[usize::from(b)] += 1);
    let length = text.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / length).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use carboy_core::host::Host;

    use super::*;

    fn name(text: &str) -> DnsName {
        Host::parse(text).unwrap().as_name().unwrap().clone()
    }

    #[test]
    fn b30_hosts_of_content_networks_and_clouds_are_no_data_or_little_of_it() {
        let mut zones = Zones::new(ZoneLimits::default());
        for host in [
            "d111111abcdef8",
            "e1234.dscb",
            "a248.e",
            "rr3---sn-4g5ednsk",
            "productionresultssa12",
            "pkg-containers",
            "release-assets",
            "cdn-lfs-us-1",
            "internal-web-1234567890.eu-west-1.elb",
            "my-app-git-feature-login-page-my-team",
            "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
            "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
            "xyzabcdefghijklmnopq",
            "en",
            "zh-min-nan",
        ] {
            assert_eq!(zones.count(&name("zone.example"), &name(&format!("{host}.zone.example"))), Ok(()), "{host}");
        }
        // Twenty accounts with an id of 32 octets each, of one run, are fine as well.
        for n in 0..20 {
            let host = format!("{:032x}.zone.example", 0x9e37_79b9_7f4a_7c15_u128.wrapping_mul(n + 3));
            assert_eq!(zones.count(&name("zone.example"), &name(&host)), Ok(()), "{host}");
        }
    }

    #[test]
    fn b30_each_limit_of_a_zone_is_reached_and_another_zone_has_its_own() {
        let limits = ZoneLimits { names_max: 3, octets_max: 60, data_octets_max: 40, name_data_octets_max: 30 };
        let mut zones = Zones::new(limits);
        let mut ask = |labels: &str, zone: &str| zones.count(&name(zone), &name(&format!("{labels}.{zone}")));
        let data = "k3j9x2m7q4w8z1b6v5n0"; // 20 octets
        assert_eq!(ask("a", "one.example"), Ok(()));
        assert_eq!(ask("b", "one.example"), Ok(()));
        assert_eq!(ask("c", "one.example"), Ok(()));
        assert!(ask("d", "one.example").unwrap_err().contains("3 names"));
        assert_eq!(ask("d", "two.example"), Ok(()));
        assert!(ask(&format!("{data}.{data}"), "two.example").unwrap_err().contains("in one name"));
        assert_eq!(ask(data, "two.example"), Ok(()));
        assert!(ask(&"word-and-".repeat(6)[..53], "two.example").unwrap_err().contains("octets of labels"));
        assert_eq!(ask(data, "three.example"), Ok(()));
        assert_eq!(ask(&data.replace('k', "h"), "three.example"), Ok(()));
        assert!(ask(&data.replace('k', "g"), "three.example").unwrap_err().contains("looks like data"));
        // What was refused is not counted.
        assert_eq!(ask("word", "three.example"), Ok(()));
    }

    #[test]
    fn b30_hex_base32_and_runs_of_consonants_look_like_data_and_words_do_not() {
        for text in ["63616e6172792d37643166", "mnqw4ylspewtozbrmywtsmdf", "k3j9x2m7q4w8z1b6", "qxkzjwvbnmtrplkq"] {
            assert!(looks_like_data(text), "{text}");
        }
        for text in ["short3a9f", "thequickbrownfoxjumps", "my-feature-branch-of-the-team", "aaaaaaaaaaaaaaaaaaaaaaaa"]
        {
            assert!(!looks_like_data(text), "{text}");
        }
    }
}
