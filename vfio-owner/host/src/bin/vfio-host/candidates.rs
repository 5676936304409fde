//! `vfio-host candidates`

use anstyle::Style;
use anyhow::Result;
use vfio_host::{Candidate, Host, candidates};

use crate::output::{Columns, DIM, Format, Outcome, STRONG, print_json, print_text, say};

pub(crate) fn run(host: &Host, format: Format) -> Result<Outcome> {
    let candidates = candidates(host);
    if format == Format::Json {
        print_json("candidates", &candidates)?;
    } else if candidates.is_empty() {
        say("no device is proved to go without harm: `vfio-host explain` names what is in the way of each");
    } else {
        let mut rows = Columns::new();
        for candidate in &candidates {
            rows.row(row(candidate));
        }
        let mut out = String::new();
        rows.write(&mut out, "", &rows.widths())?;
        print_text(&out)?;
    }
    Ok(if candidates.is_empty() { Outcome::NotPossible } else { Outcome::Possible })
}

fn row(candidate: &Candidate) -> [(Style, String); 4] {
    let cost = match (candidate.steps, candidate.others.as_slice(), &candidate.driver) {
        (0, ..) => "ready now".to_owned(),
        (_, [], None) => "at no cost: no driver uses it".to_owned(),
        (_, [], Some(driver)) => format!("leaves {driver}"),
        (_, others, _) => {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            format!("takes {} from their drivers", others.join(", "))
        }
    };
    [
        (STRONG, candidate.device.to_string()),
        (Style::new(), cost),
        (Style::new(), candidate.class.to_string()),
        (DIM, candidate.name.clone()),
    ]
}
