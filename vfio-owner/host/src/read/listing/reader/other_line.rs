//! Lines that name neither a device nor a group: attributes of the device above, headings, and what is not understood.

use super::place::{Heading, Scope};
use super::{Pending, Read, Reader};
use crate::read::listing::attribute;
use crate::read::listing::facts::GroupRef;
use crate::read::listing::line::Line;
use crate::read::listing::shape::{GroupColumn, has_number, is_sentence, link, looks_like_heading};

impl Reader<'_> {
    /// A line that names neither a device nor a group.
    pub(super) fn neither(&mut self, line: &Line) -> Read {
        if self.folder(line) {
            return Ok(());
        }
        if self.attribute(line)? {
            return Ok(());
        }
        if let Some(rest) = line.text.strip_prefix("*-") {
            self.current = None;
            self.pending = Some(Pending { unclaimed: rest.contains("UNCLAIMED"), ..Pending::default() });
            return Ok(());
        }
        if line.text.starts_with("P:") {
            // A device of another bus.
            self.current = None;
            return Ok(());
        }
        if line.text.contains("iommu_groups") {
            self.in_groups_folder = true;
            return Ok(());
        }
        if let Some(group) = self.scope.as_ref().map(|scope| scope.group)
            && let Some(arrow) = link(&line.text)
            && line.text.contains("/devices/")
        {
            let name = line.text.get(..arrow).unwrap_or_default().trim_end().rsplit(' ').next().unwrap_or_default();
            self.facts.named_member(group, name);
            return Ok(());
        }
        if self.in_groups_folder
            && let Ok(number) = line.text.parse::<u32>()
        {
            self.current = None;
            self.scope = Some(Scope::new(GroupRef::Known(Some(number)), line.indent, Heading::Alone));
            return Ok(());
        }
        if let Some(column) = GroupColumn::of_heading(&line.text) {
            self.group_column = Some(column);
            return Ok(());
        }
        self.unread(line);
        Ok(())
    }

    /// A line that is not understood. One that looks as if it began another group makes it doubtful what comes next.
    fn unread(&mut self, line: &Line) {
        let inside = self.current.as_ref().is_some_and(|current| line.indent > current.indent);
        if inside || attribute::is_noise(&line.text) {
            return;
        }
        self.skip();
        if let Some(scope) = &self.scope
            && line.indent > scope.indent
            && scope.members_at.is_none_or(|column| line.indent <= column)
        {
            // It stands where the group's devices stand, and may be one.
            self.facts.perhaps_more_in(scope.group);
        }
        let outside = |scope: &Scope| line.indent <= scope.indent && is_sentence(&line.text);
        if let Some(scope) = &mut self.scope
            && (looks_like_heading(&line.text) || outside(scope))
        {
            scope.doubtful = true;
        }
        if looks_like_heading(&line.text) && has_number(&line.text) {
            self.facts.doubtful.push(line.number);
        }
    }
}
