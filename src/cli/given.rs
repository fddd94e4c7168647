//! What an ad hoc run was given: its options over the file that they name.

use std::path::Path;

use super::UsageError;
use super::options::AdHoc;
use crate::config::{self, Origins, Settings};

/// The file's settings under the command line's, checked.
pub fn settings(options: &AdHoc, here: &Path) -> Result<(Settings, Origins), UsageError> {
    let (mut settings, mut origins) = match &options.config {
        Some(file) => config::load_unsettled(&here.join(file)).map_err(|e| UsageError(e.to_string()))?,
        None => Default::default(),
    };
    options.apply(here, &mut settings, &mut origins).map_err(|e| UsageError(origins.explain(&e)))?;
    check_given(options, &settings)?;
    settings.settle(&mut origins).map_err(|e| UsageError(origins.explain(&e)))?;
    settings.check().map_err(|e| UsageError(origins.explain(&e)))?;
    Ok((settings, origins))
}

/// The pair and the settings of a process that was started with these options in this directory.
pub fn of_options(options: &AdHoc, here: &Path) -> Result<(String, Settings), UsageError> {
    let (mut settings, _) = settings(options, here)?;
    // As the process itself does, since the name is made from them.
    for root in [&mut settings.left.root, &mut settings.right.root] {
        if let Ok(canonical) = std::fs::canonicalize(&*root) {
            *root = canonical;
        }
    }
    Ok((pair_name(options, &settings)?, settings))
}

/// Both roots on the command line, or both in the file.
fn check_given(options: &AdHoc, settings: &Settings) -> Result<(), UsageError> {
    let given = |root: &Path| !root.as_os_str().is_empty();
    let missing = match (given(&settings.left.root), given(&settings.right.root)) {
        // With a file both or none: of one root alone it is not clear which was meant.
        (true, true) if options.left.is_some() == options.right.is_some() => return Ok(()),
        (false, false) => "SRCROOT and DSTROOT are missing",
        (false, true) => "SRCROOT is missing",
        (true, _) => "DSTROOT is missing",
    };
    Err(UsageError(format!("{missing} (see --help)")))
}

/// The pair's name: as given, or that of the file, or one made from host and roots.
pub fn pair_name(options: &AdHoc, settings: &Settings) -> Result<String, UsageError> {
    match &options.pair {
        Some(name) => match config::why_no_pair(name) {
            None => Ok(name.clone()),
            Some(why) => Err(UsageError(format!("--pair: `{name}` is no name of a pair: {why}"))),
        },
        None => {
            // The archive of a file's pair is the one that `psync fullsync FILE` and all the others mean.
            let of_file = options.config.as_deref().filter(|_| options.left.is_none() && options.right.is_none());
            let stem = of_file.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
            if let Some(name) = stem.filter(|name| config::valid_pair(name)) {
                return Ok(name);
            }
            let right = &settings.right;
            // A proxy command leads to a host too.
            let host = right.host.as_deref().or(right.proxy_command.as_deref());
            Ok(config::default_pair(&settings.left.root, host, &right.root))
        }
    }
}
