# Merges dockerd's flags ($words, one per line) into the settings of daemon.json (the input), since dockerd refuses to
# start when a setting is in both. Lists are joined. For a single value or a label, the flag wins.
# Prints the settings on one line, and then the flags without a key in daemon.json, one per line.

# The keys of daemon.json by flag. pymachine.docker.daemon_json has the same tables.
def lists: {
    "add-cdi-spec-dir": "cdi-spec-dirs",
    "allow-nondistributable-artifacts": "allow-nondistributable-artifacts",
    "authorization-plugin": "authorization-plugins",
    "dns": "dns",
    "dns-opt": "dns-opts",
    "dns-search": "dns-search",
    "exec-opt": "exec-opts",
    "host": "hosts",
    "insecure-registry": "insecure-registries",
    "label": "labels",
    "registry-mirror": "registry-mirrors",
    "storage-opt": "storage-opts"
};
def maps: {"add-runtime": "runtimes", "default-ulimit": "default-ulimits", "log-opt": "log-opts"};
def numbers: [
    "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts", "mtu",
    "network-control-plane-mtu", "oom-score-adjust", "shutdown-timeout"
];
def booleans: [
    "debug", "experimental", "icc", "init", "ip-forward", "ip-masq", "ip6tables", "iptables", "ipv6",
    "live-restore", "no-new-privileges", "raw-logs", "selinux-enabled", "userland-proxy"
];
def texts: [
    "bip", "bridge", "cgroup-parent", "containerd", "containerd-namespace", "containerd-plugins-namespace",
    "data-root", "default-cgroupns-mode", "default-gateway", "default-gateway-v6", "default-ipc-mode",
    "default-runtime", "default-shm-size", "exec-root", "fixed-cidr", "fixed-cidr-v6", "group", "http-proxy",
    "https-proxy", "init-path", "ip", "log-driver", "log-format", "log-level", "metrics-addr", "no-proxy",
    "seccomp-profile", "storage-driver", "userland-proxy-path", "userns-remap"
];
def long: {
    "H": "host", "D": "debug", "l": "log-level", "s": "storage-driver", "g": "data-root", "G": "group", "b": "bridge",
    "graph": "data-root"
};
def bare: . as $name | booleans + ["tls", "tlsverify", "validate"] | index($name) != null;

# Parse the words into flags: name, value (null if there is none), and the words themselves.
def flags:
    if length == 0 then [] else
        .[0] as $first | .[1:] as $rest |
        (($first | capture("^--(?<name>[^=]+)(=(?<value>.*))?$"))
            // ($first | capture("^-(?<name>[A-Za-z])(=?(?<value>.+))?$"))
            // {name: null, value: null}) as $flag |
        ($flag.name | if . == null then null else long[.] // . end) as $name |
        if $flag.value == null and $name != null and ($name | bare | not)
            and ($rest | length) > 0 and ($rest[0] | startswith("-") | not)
        then [{$name, value: $rest[0], words: [$first, $rest[0]]}] + ($rest[1:] | flags)
        else [{$name, value: $flag.value, words: [$first]}] + ($rest | flags)
        end
    end;

def before_equals: split("=")[0];
def after_equals: split("=")[1:] | join("=");
def without_value($name): [.[] | select(before_equals != ($name | before_equals))];
def boolean: . as $value | $value == null or (["1", "t", "T", "TRUE", "true", "True"] | index([$value])) != null;
def ulimit: (after_equals | split(":")) as $limits | {
    Name: before_equals, Soft: ($limits[0] | tonumber), Hard: ($limits[-1] | tonumber)
};

def apply_flag($flag): # add one flag to .settings, or to .flags
    $flag.name as $name | $flag.value as $value |
    if $name != null and lists[$name] != null and $value != null then
        if $name == "label" then .settings.labels = ((.settings.labels // [] | without_value($value)) + [$value])
        else .settings[lists[$name]] |= ((. // []) - [$value] + [$value])
        end
    elif $name == "log-opt" and $value != null then
        .settings["log-opts"][$value | before_equals] = ($value | after_equals)
    elif $name == "add-runtime" and $value != null then
        .settings.runtimes[$value | before_equals] = {path: ($value | after_equals)}
    elif $name == "default-ulimit" and $value != null then
        .settings["default-ulimits"][$value | before_equals] = ($value | ulimit)
    elif booleans | index([$name]) then .settings[$name] = ($value | boolean)
    elif (numbers | index([$name])) and $value != null then .settings[$name] = ($value | tonumber)
    elif (texts | index([$name])) and $value != null then .settings[$name] = $value
    else .flags += $flag.words | if $name == null then . else del(.settings[$name]) end
    end;

reduce ($words | split("\n") | map(select(. != "")) | flags)[] as $flag ({settings: ., flags: []}; apply_flag($flag)) |
(.settings | tojson), .flags[]
