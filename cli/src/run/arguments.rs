//! The program's command line: `$PORT` and the like stand for what is known only when it starts.

/// What the program is told, in its environment and in its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) port: u16,
    pub(crate) service: String,
    pub(crate) replica_id: String,
    pub(crate) address: String,
    /// The control plane's URL.
    pub(crate) endpoint: String,
}

impl Told {
    /// The variables by their names.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("PORT", self.port.to_string()),
            ("GW_SERVICE", self.service.clone()),
            ("GW_REPLICA_ID", self.replica_id.clone()),
            ("GW_ADDRESS", self.address.clone()),
            ("GW_ENDPOINT", self.endpoint.clone()),
        ]
    }

    /// `argument` with `$NAME` and `${NAME}` replaced, for these names and no others: the rest may be meant for a shell.
    pub(crate) fn fill_in(&self, argument: &str) -> String {
        let variables = self.variables();
        let mut filled = String::with_capacity(argument.len());
        let mut rest = argument;
        while let Some(at) = rest.find('$') {
            let (before, from_dollar) = rest.split_at(at);
            filled.push_str(before);
            let found = name_after_dollar(from_dollar).and_then(|(name, length)| {
                let value = variables.iter().find(|(known, _)| *known == name)?;
                Some((&value.1, length))
            });
            match found {
                Some((value, length)) => {
                    filled.push_str(value);
                    rest = &from_dollar[length..];
                }
                None => {
                    filled.push('$');
                    rest = &from_dollar[1..];
                }
            }
        }
        filled.push_str(rest);
        filled
    }
}

/// The name that `$NAME…` or `${NAME}…` begins with, and how long that is with the dollar and the braces.
fn name_after_dollar(text: &str) -> Option<(&str, usize)> {
    let after = &text[1..];
    if let Some(braced) = after.strip_prefix('{') {
        let (name, _) = braced.split_once('}')?;
        return Some((name, name.len() + 3));
    }
    let length = after.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(after.len());
    Some((&after[..length], length + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Told {
        Told {
            port: 8081,
            service: "orders".into(),
            replica_id: "r-1".into(),
            address: "127.0.0.1:8081".into(),
            endpoint: "http://127.0.0.1:7400".into(),
        }
    }

    #[test]
    fn known_names_are_filled_in_with_and_without_braces() {
        for (argument, filled) in [
            ("$PORT", "8081"),
            ("--port=$PORT", "--port=8081"),
            ("127.0.0.1:${PORT}x", "127.0.0.1:8081x"),
            ("$GW_ADDRESS,$GW_SERVICE/$GW_REPLICA_ID", "127.0.0.1:8081,orders/r-1"),
            ("$GW_ENDPOINT", "http://127.0.0.1:7400"),
            ("$$PORT", "$8081"),
        ] {
            assert_eq!(told().fill_in(argument), filled, "{argument}");
        }
    }

    #[test]
    fn everything_else_is_left_to_whoever_reads_it() {
        for argument in
            ["", "plain", "$", "${", "${PORT", "$PORTS", "$HOME", "${HOME}", "$1", "größe$", "a$-b", "$ö"]
        {
            assert_eq!(told().fill_in(argument), argument, "{argument}");
        }
    }

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let told = Told { service: "$PORT".into(), ..told() };
        assert_eq!(told.fill_in("$GW_SERVICE"), "$PORT");
    }
}
