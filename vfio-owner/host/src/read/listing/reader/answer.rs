//! Commands as they were typed, and the answers to those that ask about one device or group.

use super::Reader;
use super::place::{Current, Heading, Scope};
use crate::read::listing::ListingErrorReason;
use crate::read::listing::command::{self, Question, Target};
use crate::read::listing::facts::{Form, Place};
use crate::read::listing::line::Line;

impl Reader<'_> {
    /// A command as it was typed: what it prints comes next.
    pub(super) fn command(&mut self, line: &Line) {
        self.table = None;
        self.facts.block += 1;
        if let (Some(Question::Members(group)), Some(scope)) = (&self.asked, &self.scope)
            && scope.is_whole()
        {
            self.facts.whole_folder(*group);
        }
        if self.asked == Some(Question::AllGroups) {
            self.facts.no_groups = true;
        }
        (self.current, self.scope, self.group_column) = (None, None, None);
        self.some_devices = command::is_about_some(&line.text);
        self.asked = command::question(&line.text);
        match self.asked {
            Some(Question::Members(group)) => self.scope = Some(Scope::new(group, line.indent, Heading::Folder)),
            Some(Question::Details(device)) => {
                self.current = Some(Current { device, indent: line.indent, form: Form::Record, same_paragraph: true });
            }
            _ => {}
        }
    }

    /// Whether a line is the answer to the command above it.
    pub(super) fn answer(&mut self, line: &Line) -> Result<bool, ListingErrorReason> {
        if let Some(Question::Bound(driver)) = &self.asked {
            let bound = command::bound(&line.text);
            for device in &bound {
                self.facts.driver(*device, Some(driver.clone()), line.number)?;
                self.facts.device(*device).listed = true;
            }
            return Ok(!bound.is_empty());
        }
        let (device, target) = match self.asked {
            Some(Question::AllGroups) => {
                self.asked = None;
                return Ok(false);
            }
            None | Some(Question::Members(_) | Question::Details(_) | Question::Bound(_)) => return Ok(false),
            Some(Question::Target(device, of)) => (device, command::target(&line.text, device, of)),
            Some(Question::TargetName(device, of)) => (device, command::target_name(&line.text, of)),
        };
        self.asked = None;
        match target {
            None => return Ok(false),
            Some(Target::Driver(driver)) => self.facts.driver(device, driver, line.number)?,
            Some(Target::Group(group)) => self.facts.group(device, group, Place::Pointed, line.number)?,
        }
        self.facts.device(device).listed = true;
        Ok(true)
    }
}
