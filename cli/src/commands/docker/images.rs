//! Images on a Docker host.
//!
//! Decides: what a file to be imported may be, before any daemon is asked.

use std::{
    io,
    path::{Path, PathBuf},
};

use comfy_table::Table;
use node_api::{
    Answer, Route,
    types::{Created, ImageView, PullProgress, PullRequest},
};
use tokio::fs::File;

use super::deleted;
use crate::{
    context::Context,
    failure::{Exit, Explained, Failure},
    progress::Pulled,
    table::{NOTHING, bytes, span, table},
    values,
};

/// Characters of an image's id, after `sha256:`, that tell it apart.
const ID_CHARS_SHOWN: usize = 12;

/// Fetch an image from its registry
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// The image
    #[arg(value_parser = values::name)]
    image: String,
}

/// Make an image out of a tar file with a root file system
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// The tar file; - for standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// The image's name, such as busybox:latest
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    tag: String,
}

/// Remove an image
#[derive(Debug, clap::Args)]
pub(crate) struct Rmi {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// The image
    #[arg(value_parser = values::name)]
    image: String,
    /// Remove it even if a stopped container uses it
    #[arg(long, short)]
    force: bool,
}

/// Why a file is not imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportFileError {
    #[error("the file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a file", path.display())]
    NoFile { path: PathBuf },
    #[error("the file {} is empty", path.display())]
    Empty { path: PathBuf },
}

impl Explained for ImportFileError {
    fn code(&self) -> &'static str {
        "ImportFileError"
    }

    fn hint(&self) -> String {
        "give a tar file with a root file system, such as `tar -C ROOTFS -cf FILE .` makes".into()
    }
}

pub(super) async fn ls(context: &Context<'_>, node: &str) -> Result<Exit, Failure> {
    let route = Route::to(&["docker", "hosts", node, "images"]);
    let now_ms = crate::commands::status::now_ms();
    context.list(context.client.get(&route).await, |images| {
        list(images, now_ms)
    })
}

impl Pull {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["docker", "hosts", &self.node, "pull"]);
        let request = PullRequest { image: self.image };
        let mut lines = context
            .client
            .post_lines::<PullProgress>(&route, &request)
            .await?;
        let mut pulled = Pulled::default();
        let drawn = context.terminal.draws_progress();
        let done = loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => break Ok(Exit::Done),
                Err(error) => break Err(error),
            };
            if let Some(error) = line.value.error {
                break Err(error);
            }
            let news = pulled.take(&line.value);
            if context.terminal.json() {
                context.terminal.document(&line.body)?;
            } else if drawn {
                context.terminal.progress(&pulled.summary())?;
            } else if let Some(news) = news {
                context.terminal.text(&news)?;
            }
        };
        if drawn {
            context.terminal.progress_over()?;
        }
        let done = done?;
        if !context.terminal.json() {
            let said = format!("{} is on {}", request.image, self.node);
            context.terminal.text(&said)?;
        }
        Ok(done)
    }
}

impl Import {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["docker", "hosts", &self.node, "import"]).query("tag", &self.tag);
        let answer: Answer<Created> = if self.file == Path::new("-") {
            let client = &context.client;
            client.upload(&route, tokio::io::stdin(), None).await?
        } else {
            let (file, length_bytes) = open(&self.file).await?;
            context
                .client
                .upload(&route, file, Some(length_bytes))
                .await?
        };
        context.show(Ok(answer), |created| {
            format!("{} is {}", self.tag, created.id)
        })
    }
}

async fn open(path: &Path) -> Result<(File, u64), ImportFileError> {
    let unreadable = |source| ImportFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).await.map_err(unreadable)?;
    let found = file.metadata().await.map_err(unreadable)?;
    if !found.is_file() {
        return Err(ImportFileError::NoFile { path: path.into() });
    }
    match found.len() {
        0 => Err(ImportFileError::Empty { path: path.into() }),
        length_bytes => Ok((file, length_bytes)),
    }
}

impl Rmi {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["docker", "hosts", &self.node, "images", &self.image])
            .flag("force", self.force);
        let answer = context.client.delete(&route).await?;
        deleted(context, &answer, &format!("{} is removed", self.image))
    }
}

fn list(images: &[ImageView], now_ms: u64) -> Table {
    let rows = images.iter().map(|image| {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        let made = image
            .created_ms
            .map(|made| format!("{} ago", span(now_ms.saturating_sub(made))));
        vec![
            id.chars().take(ID_CHARS_SHOWN).collect(),
            image.tags.join(", "),
            bytes(image.size_bytes),
            made.unwrap_or_else(|| NOTHING.into()),
        ]
    });
    table(&["IMAGE", "NAMES", "SIZE", "MADE"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_shows_names_and_sizes() {
        let image = ImageView {
            id: "sha256:0123456789abcdef0123456789abcdef".into(),
            tags: vec!["busybox:latest".into(), "b:1".into()],
            size_bytes: 2_034_000,
            created_ms: Some(1_000),
        };
        let nameless = ImageView {
            tags: vec![],
            created_ms: None,
            ..image.clone()
        };
        insta::assert_snapshot!(list(&[image, nameless], 601_000).trim_fmt(), @r"
        IMAGE         NAMES                SIZE    MADE
        0123456789ab  busybox:latest, b:1  2.0 MB  10 min ago
        0123456789ab  -                    2.0 MB  -
        ");
    }

    #[tokio::test]
    async fn only_a_file_with_something_in_it_is_imported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.tar");
        let error = open(&path).await.unwrap_err();
        assert!(matches!(error, ImportFileError::Unreadable { .. }));
        std::fs::write(&path, "").unwrap();
        let error = open(&path).await.unwrap_err();
        assert!(matches!(error, ImportFileError::Empty { .. }));
        let error = open(directory.path()).await.unwrap_err();
        assert!(matches!(error, ImportFileError::NoFile { .. }));
        std::fs::write(&path, "tar").unwrap();
        assert_eq!(open(&path).await.unwrap().1, 3);
    }
}
