//! Devices by their CDI name (Container Device Interface 1.0): what vendors say a container needs besides device nodes.
//!
//! Specifications lie in `/etc/cdi` and `/var/run/cdi`, as JSON or YAML; the later folder wins. What cannot be read is left out,
//! unless it is what was asked for.

mod yaml;

use std::fs;
use std::path::{Path, PathBuf};

use gantry_model::spec::{ContainerSpec, DeviceSpec, Propagation};
use gantry_model::{Class, Problem};
use gantry_runtime::plan::HookPlan;
use gantry_runtime::{LaunchInput, ResolvedMount, ResolvedMountKind};
use serde::Deserialize;

/// Folders of specifications, the later one before the former.
const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Specification {
    kind: String,
    devices: Vec<Device>,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Device {
    name: String,
    container_edits: Edits,
}

/// What a container needs for its devices.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeviceNode {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hook {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<u32>,
}

/// What devices need, by their names `vendor.com/class=name`.
pub(super) fn resolve(names: &[String]) -> Result<Edits, Problem> {
    if names.is_empty() {
        return Ok(Edits::default());
    }
    resolve_in(names, &FOLDERS.map(Path::new))
}

fn resolve_in(names: &[String], folders: &[&Path]) -> Result<Edits, Problem> {
    let mut damaged = Vec::new();
    let known: Vec<Specification> = folders
        .iter()
        .rev()
        .flat_map(|folder| read(folder, &mut damaged))
        .collect();
    let mut edits = Edits::default();
    let mut kinds: Vec<&str> = Vec::new();
    for name in names {
        let found = name.split_once('=').and_then(|(kind, device)| {
            let mut specifications = known.iter().filter(|specification| specification.kind == kind);
            specifications.find_map(|specification| {
                let device = specification.devices.iter().find(|other| other.name == device)?;
                Some((specification, device))
            })
        });
        let Some((specification, device)) = found else {
            return Err(unknown(name, &known, &damaged, folders));
        };
        if !kinds.contains(&specification.kind.as_str()) {
            kinds.push(&specification.kind);
            edits.extend(specification.container_edits.clone());
        }
        edits.extend(device.container_edits.clone());
    }
    Ok(edits)
}

fn unknown(name: &str, known: &[Specification], damaged: &[String], folders: &[&Path]) -> Problem {
    let all = known.iter().flat_map(|specification| {
        let name = |device: &Device| format!("{}={}", specification.kind, device.name);
        specification.devices.iter().map(name)
    });
    let all: Vec<String> = all.collect();
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let mut reason = format!("this node has no CDI device '{name}'");
    if !damaged.is_empty() {
        reason.push_str(&format!("; unreadable: {}", damaged.join(", ")));
    }
    let remedy = match all.as_slice() {
        [] => format!(
            "its vendor's toolkit writes a specification into {}",
            folders.join(" or ")
        ),
        all => format!("use one of {}", all.join(", ")),
    };
    Problem::new(Class::Invalid, "", reason).remedy(remedy)
}

fn read(folder: &Path, damaged: &mut Vec<String>) -> Vec<Specification> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let value = match extension {
            Some("json") => serde_json::from_str(&text).map_err(|error| error.to_string()),
            Some("yaml" | "yml") => yaml::parse(&text),
            _ => continue,
        };
        let parsed =
            value.and_then(|value| serde_json::from_value::<Specification>(value).map_err(|error| error.to_string()));
        match parsed {
            Ok(specification) => found.push(specification),
            Err(error) => damaged.push(format!("{} ({error})", path.display())),
        }
    }
    found
}

impl Edits {
    fn extend(&mut self, other: Self) {
        self.env.extend(other.env);
        self.device_nodes.extend(other.device_nodes);
        self.mounts.extend(other.mounts);
        self.hooks.extend(other.hooks);
        self.additional_gids.extend(other.additional_gids);
    }

    /// The container with the devices' variables and groups. What the user set wins.
    pub(super) fn environment(&self, container: &ContainerSpec) -> ContainerSpec {
        let mut container = container.clone();
        for variable in &self.env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            let entry = container.environment.entry(name.to_string());
            entry.or_insert_with(|| Some(value.to_string()));
        }
        container
            .group_add
            .extend(self.additional_gids.iter().map(ToString::to_string));
        container
    }

    /// Adds device nodes, mounts and hooks.
    pub(super) fn add_to(&self, input: &mut LaunchInput<'_>) {
        input
            .options
            .devices
            .extend(self.device_nodes.iter().map(|node| DeviceSpec {
                source: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
                target: node.path.clone(),
                permissions: node.permissions.clone().unwrap_or_else(|| "rwm".to_string()),
            }));
        input.mounts.extend(self.mounts.iter().map(|mount| ResolvedMount {
            target: PathBuf::from(&mount.container_path),
            read_only: mount.options.iter().any(|option| option == "ro"),
            kind: ResolvedMountKind::Bind {
                source: PathBuf::from(&mount.host_path),
                create_host_path: false,
                propagation: Propagation::default(),
            },
        }));
        let hooks = &mut input.options.hooks;
        for hook in &self.hooks {
            let list = match hook.hook_name.as_str() {
                "prestart" => &mut hooks.prestart,
                "createRuntime" => &mut hooks.create_runtime,
                "createContainer" => &mut hooks.create_container,
                "startContainer" => &mut hooks.start_container,
                "poststart" => &mut hooks.poststart,
                "poststop" => &mut hooks.poststop,
                other => {
                    tracing::warn!(hook = other, "a CDI specification asks for an unknown hook");
                    continue;
                }
            };
            list.push(HookPlan {
                path: hook.path.clone(),
                args: hook.args.clone(),
                env: hook.env.clone(),
                timeout_s: hook.timeout,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
cdiVersion: "0.5.0"
kind: vendor.com/net
containerEdits:
  env:
  - VENDOR=yes
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/vendor0
      hostPath: /dev/null
      permissions: rw
    mounts:
    - hostPath: /usr/lib/vendor
      containerPath: /usr/lib/vendor
      options: [ro, nosuid]
    hooks:
    - hookName: createContainer
      path: /usr/bin/hook
      args: [hook, --all]
- name: all
  containerEdits:
    env: ["WHICH=all"]
"#;

    #[test]
    fn devices_of_both_forms_are_found_and_the_later_folder_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        let (etc, run) = (folder.path().join("etc"), folder.path().join("run"));
        fs::create_dir_all(&etc).expect("made");
        fs::create_dir_all(&run).expect("made");
        fs::write(etc.join("net.yaml"), YAML).expect("written");
        let json = r#"{"cdiVersion":"1.0.0","kind":"vendor.com/net","devices":[{"name":"all","containerEdits":{"env":["WHICH=run"]}}]}"#;
        fs::write(run.join("net.json"), json).expect("written");
        fs::write(etc.join("bad.json"), "{").expect("written");
        let folders = [etc.as_path(), run.as_path()];

        let edits = resolve_in(&["vendor.com/net=0".into()], &folders).expect("known");
        assert_eq!(edits.env, ["VENDOR=yes"]);
        assert_eq!(edits.device_nodes[0].host_path.as_deref(), Some("/dev/null"));
        assert_eq!(edits.mounts[0].options, ["ro", "nosuid"]);
        assert_eq!(edits.hooks[0].args, ["hook", "--all"]);
        let container = edits.environment(&ContainerSpec {
            environment: [("VENDOR".to_string(), Some("mine".to_string()))].into(),
            ..ContainerSpec::default()
        });
        assert_eq!(container.environment["VENDOR"].as_deref(), Some("mine"));

        let edits = resolve_in(&["vendor.com/net=all".into()], &folders).expect("known");
        assert_eq!(edits.env, ["WHICH=run"]);

        let problem = resolve_in(&["vendor.com/net=9".into()], &folders).expect_err("unknown");
        let text = problem.to_string();
        assert!(text.contains("vendor.com/net=0") && text.contains("bad.json"), "{text}");
    }
}
