// Package config reads the settings of a Ruche server.
//
// A setting has one name, written the same way everywhere:
//
//	file         admin-listen: 127.0.0.1:9001
//	environment  RUCHE_ADMIN_LISTEN=127.0.0.1:9001
//	flag         --admin-listen 127.0.0.1:9001
//
// Flags win over the environment, the environment over the file, the file over
// the defaults. A name that is not known is an error, wherever it stands, and
// the error says which known name is nearest. [Options] lists all settings with
// their defaults; [Load] reads them; [Config.Validate] reports everything that
// is wrong with them at once.
//
// The package reads the one configuration file and the files named by secrets.
// It touches nothing else: whether a path or an address can be used is found
// out by whoever uses it.
package config

import (
	"strconv"
	"time"
)

// Config is the settings of a server. Load fills every field; the zero value
// is not usable.
type Config struct {
	Data   string   `koanf:"data"`
	Drives []string `koanf:"drives"`
	Scheme string   `koanf:"scheme"`

	Listen         string   `koanf:"listen"`
	AdminListen    string   `koanf:"admin-listen"`
	Region         string   `koanf:"region"`
	StrictRegion   bool     `koanf:"strict-region"`
	Domains        []string `koanf:"domains"`
	PublicURLs     []string `koanf:"public-urls"`
	TrustedProxies []string `koanf:"trusted-proxies"`
	TLSCert        string   `koanf:"tls-cert"`
	TLSKey         string   `koanf:"tls-key"`
	InsecureHTTP   bool     `koanf:"insecure-http"`

	Encryption       string   `koanf:"encryption"`
	Keyring          string   `koanf:"keyring"`
	AcceptClock      bool     `koanf:"accept-clock"`
	DefaultBuckets   []string `koanf:"default-buckets"`
	OnDriveLoss      string   `koanf:"on-drive-loss"`
	MetadataReplicas string   `koanf:"metadata-replicas"`

	AccessLog string `koanf:"access-log"`
	LogLevel  string `koanf:"log-level"`
	LogFormat string `koanf:"log-format"`

	MemoryLimit  Size          `koanf:"memory-limit"`
	StripeBudget Size          `koanf:"stripe-budget"`
	InlineBytes  Size          `koanf:"inline-bytes"`
	Ballast      Size          `koanf:"ballast"`
	Reserve      Size          `koanf:"reserve"`
	Preallocate  Size          `koanf:"preallocate"`
	ScrubRate    Size          `koanf:"scrub-rate"`
	TrashGrace   time.Duration `koanf:"trash-grace"`
	DrainTime    time.Duration `koanf:"drain-time"`
	Profiling    bool          `koanf:"profiling"`

	RootUser         string `koanf:"root-user"`
	RootUserFile     string `koanf:"root-user-file"`
	RootPassword     string `koanf:"root-password"`
	RootPasswordFile string `koanf:"root-password-file"`
	MetricsToken     string `koanf:"metrics-token"`
	MetricsTokenFile string `koanf:"metrics-token-file"`
}

// Places that are used when nothing names another.
const (
	DefaultFile  = "/etc/ruche/ruche.yaml" // configuration file, if it exists
	DefaultState = "/var/lib/ruche"        // state directory, with --drives alone
)

// Option describes one setting.
type Option struct {
	Key     string // its name
	Default string // as it would be written in the environment
	Help    string // what it is for, one line, no full stop
	Secret  bool   // never printed, and no flag: arguments are visible to every process
	Bool    bool
	List    bool // comma separated in the environment and in flags
}

// Env is the name of the option in the environment.
func (o Option) Env() string { return envPrefix + envName(o.Key) }

// Options returns all settings in the order in which they are documented.
func Options() []Option {
	return []Option{
		{Key: "data", Help: "state directory; without drives also the place of the drives d1 to d6"},
		{Key: "drives", List: true, Help: "directories of the drives, such as /srv/d{1...6}"},
		{Key: "scheme", Help: "data+parity shards, such as 4+2; empty: by the number of drives"},
		{Key: "listen", Default: "127.0.0.1:9000", Help: "address of the S3 API, host:port; port 0 takes a free one"},
		{Key: "admin-listen", Default: "127.0.0.1:9001", Help: "address of the admin API, metrics and health"},
		{Key: "region", Default: "fr-metro", Help: "region that the server answers as"},
		{Key: "strict-region", Default: "false", Bool: true, Help: "refuse signatures made for another region"},
		{Key: "domains", List: true, Help: "domains whose subdomains are bucket names (virtual-host style)"},
		{Key: "public-urls", List: true, Help: "addresses by which clients reach the S3 API, if not by listen"},
		{Key: "trusted-proxies", List: true, Help: "networks (CIDR) whose X-Forwarded-For is believed"},
		{Key: "tls-cert", Help: "certificate chain, PEM; read again when it changes"},
		{Key: "tls-key", Help: "key of tls-cert, PEM"},
		{Key: "insecure-http", Default: "false", Bool: true, Help: "serve plain HTTP on addresses that are not loopback"},
		{Key: "encryption", Default: "on", Help: "on or off: seal what is stored; fixed at the first start"},
		{Key: "keyring", Help: "file of the encryption keys; empty: keyring in the state directory"},
		{Key: "accept-clock", Default: "false", Bool: true, Help: "start although the clock is far ahead of the stored data"},
		{Key: "default-buckets", List: true, Help: "buckets to create at start if they do not exist"},
		{Key: "on-drive-loss", Default: "refuse", Help: "refuse or degrade: writes while a drive is missing and parity is 1"},
		{Key: "metadata-replicas", Default: "auto", Help: "copies of the metadata: 1, 3, 5, or auto: by parity and devices, at the first start"},
		{Key: "access-log", Help: "file of the access log in AWS's format, opened anew at SIGHUP; empty: none"},
		{Key: "log-level", Default: "info", Help: "debug, info, warn or error"},
		{Key: "log-format", Default: "auto", Help: "text, json or auto: text on a terminal, else json"},
		{Key: "memory-limit", Default: "512MiB", Help: "what the garbage collector aims to stay under; 0: no aim"},
		{Key: "stripe-budget", Default: "192MiB", Help: "memory for bodies in flight; beyond it clients get 503 SlowDown"},
		{Key: "inline-bytes", Default: "16KiB", Help: "bodies up to this length are kept in the metadata; at most 128KiB"},
		{Key: "ballast", Default: "auto", Help: "space held back on each device; auto: 1 %, at most 8GiB"},
		{Key: "reserve", Default: "auto", Help: "free space below which a drive takes no more shards; auto: 1 %, 16MiB to 4GiB"},
		{Key: "preallocate", Default: "64MiB", Help: "step in which segments are preallocated; 0: not at all"},
		{Key: "scrub-rate", Default: "20MiB", Help: "bytes a second that the scrubber reads from each drive; 0: no background scrub"},
		{Key: "trash-grace", Default: "1h", Help: "how long deleted bytes stay before they are freed"},
		{Key: "drain-time", Default: "30s", Help: "how long requests in flight may go on after a stop"},
		{Key: "profiling", Default: "false", Bool: true, Help: "answer Go's profiles at /debug/pprof/ of the admin API, to access keys only"},
		{Key: "root-user", Secret: true, Help: "access key of root; empty: generated at the first start"},
		{Key: "root-user-file", Help: "file that holds root-user"},
		{Key: "root-password", Secret: true, Help: "secret key of root; empty: generated at the first start"},
		{Key: "root-password-file", Help: "file that holds root-password"},
		{Key: "metrics-token", Secret: true, Help: "bearer token for /metrics from other hosts"},
		{Key: "metrics-token-file", Help: "file that holds metrics-token"},
	}
}

// Replicas is how many copies of the metadata the settings name, 0 for auto.
func (c *Config) Replicas() int {
	n, err := strconv.Atoi(c.MetadataReplicas)
	if err != nil {
		return 0
	}
	return n
}

// Auto as a Size leaves the choice to the program.
const Auto Size = -1

// StateDir is the directory of everything that is not on a drive.
func (c *Config) StateDir() string {
	if c.Data == "" && len(c.Drives) > 0 {
		return DefaultState
	}
	return c.Data
}
