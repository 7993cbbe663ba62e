//! Views: members of cubes under one name (`data-model.md` §8).

use super::cube::{CubeId, MemberId};

/// What a view has beside its members.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// First cubes of its join paths, in order, without repetitions.
    pub roots: Vec<CubeId>,
    /// Folders in order.
    pub folders: Vec<Folder>,
    /// Conditions that hold unless the query has its own (`default_filters`).
    pub default_filters: Vec<DefaultFilter>,
    /// Labels of groups that it belongs to.
    pub groups: Vec<String>,
}

/// A folder of a view's members; metadata only.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Its name.
    pub name: String,
    /// Members and folders in it, in order.
    pub items: Vec<FolderItem>,
}

/// Something in a folder.
#[derive(Debug, Clone)]
pub enum FolderItem {
    /// A member of the view.
    Member(MemberId),
    /// A folder in the folder.
    Folder(Folder),
}

/// A group of views; metadata only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewGroup {
    /// Its name.
    pub name: String,
    /// Given title.
    pub title: Option<String>,
    /// Given description.
    pub description: Option<String>,
    /// Views and groups in it, in order.
    pub items: Vec<ViewGroupItem>,
}

/// Something in a group of views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewGroupItem {
    /// A view.
    View(CubeId),
    /// A group in the group.
    Group(ViewGroup),
}

impl ViewGroup {
    /// The views that stand in it directly.
    pub fn views(&self) -> impl Iterator<Item = CubeId> {
        self.items.iter().filter_map(|item| match item {
            ViewGroupItem::View(view) => Some(*view),
            ViewGroupItem::Group(_) => None,
        })
    }

    /// The names of this group and of those in it that hold the view directly.
    pub fn names_of(&self, view: CubeId) -> Vec<&str> {
        let mut names: Vec<&str> = self.views().filter(|id| *id == view).map(|_| self.name.as_str()).take(1).collect();
        for item in &self.items {
            if let ViewGroupItem::Group(group) = item {
                names.extend(group.names_of(view));
            }
        }
        names
    }
}

/// A condition on a view (`data-model.md` §8.5).
#[derive(Debug, Clone)]
pub struct DefaultFilter {
    /// The condition in the query's own format, members written `view.member`.
    pub filter: serde_json::Value,
    /// Names of members of the view: a condition of the query on one of them releases this one.
    pub unless: Vec<MemberId>,
}
