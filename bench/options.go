package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/ruche-storage/ruche/bench/client"
)

// options are what a run is told.
type options struct {
	sides  []*side // one or two
	chosen []step

	duration, warmup time.Duration
	rounds           int
	keep             bool // the server of a side serves all steps
	root             string
	getBytes         int64 // of the objects that GETs are spread over
	listKeys         int
	objects          int // for HEAD
	deletes          int

	md5Bytes        int // hashed to know the machine
	list            bool
	output, results string
	allowed         float64 // share of failed calls that is no failure of the run
	pprof, profiles string

	commit, durability, note string

	mu     sync.Mutex // guards bodies
	bodies map[bodyID]*client.Body
}

type bodyID struct {
	seed uint64
	size int64
}

// body returns a body, which is made once.
func (o *options) body(seed uint64, size int64) *client.Body {
	o.mu.Lock()
	defer o.mu.Unlock()
	id := bodyID{seed, size}
	if o.bodies[id] == nil {
		o.bodies[id] = client.NewBody(seed, size)
	}
	return o.bodies[id]
}

// fresh reports whether every step gets servers of its own.
func (o *options) fresh() bool {
	for _, s := range o.sides {
		if s.serve == nil {
			return false
		}
	}
	return !o.keep
}

func (o *options) describe() description {
	d := description{
		Date: time.Now().UTC().Format(time.DateOnly), Commit: o.commit, Durability: o.durability, Note: o.note,
		Seconds: o.duration.Seconds(), WarmUp: o.warmup.Seconds(), Rounds: o.rounds, Fresh: o.fresh(),
	}
	for _, s := range o.sides {
		text := s.label + " at an endpoint"
		if s.serve != nil {
			text = fmt.Sprintf("%s: ruche serve with %d drive directories", s.label, s.serve.drives)
			if len(s.serve.args) > 0 {
				text += " " + strings.Join(s.serve.args, " ")
			}
		}
		d.Sides = append(d.Sides, text)
	}
	return d
}

const usage = `usage: bench [flags]

Drives an S3 server with load and reports rates, latencies, and the CPU time and
peak memory of the server's process. The server is either one that runs
(--endpoint, --pid) or one that bench starts on empty directories (--serve). A
second one (--peer or --peer-serve) is measured in turn, A B A B, and compared
by the medians of the ratios.

examples:
  # a server of our own on 12 drive directories (8+4), all steps, 15 s each
  go run ./bench --serve bin/ruche

  # some steps only, encryption on against off, five rounds, with a results file
  go run ./bench --serve bin/ruche --label sealed \
      --peer-serve bin/ruche --peer-args "--encryption off" --peer-label plain \
      --steps '^(PUT|GET) (4KiB|1MiB) c8' --duration 8s --rounds 5 \
      --commit "$(git describe --always)" --results bench/results/sealed.md

  # a server that runs, against another one
  S3_ACCESS_KEY=... S3_SECRET_KEY=... go run ./bench --endpoint http://127.0.0.1:9000 --pid 4711 \
      --peer http://127.0.0.1:9100 --peer-pid 4712 --peer-access-key ... --peer-secret-key ...

flags:
`

// flags are options as they are written.
type flags struct {
	options
	main, peer               sideFlags
	sizes, clients, steps    string
	payload, drivesRoot      string
	getSet                   string
	drives                   int
	quick, large             bool
	durationText, warmupText time.Duration
}

// sideFlags are the flags of one side.
type sideFlags struct {
	label, endpoint, bin, args       string
	accessKey, secretKey, region, ca string
	pid                              int
}

// parseOptions reads the arguments and the environment.
func parseOptions(args []string, getenv func(string) string, stderr io.Writer) (*options, error) {
	f := &flags{options: options{bodies: make(map[bodyID]*client.Body)}}
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() {
		fmt.Fprint(stderr, usage)
		set.PrintDefaults()
	}
	f.declareSides(set, getenv)
	f.declareLoad(set)
	f.declareReport(set)
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	f.md5Bytes = 256 << 20
	if f.quick {
		f.md5Bytes = 8 << 20
		f.makeQuick(set)
	}
	if err := f.resolve(); err != nil {
		return nil, err
	}
	return &f.options, nil
}

func (f *flags) declareSides(set *flag.FlagSet, getenv func(string) string) {
	for _, s := range []struct {
		to           *sideFlags
		prefix, name string
		label        string
	}{{&f.main, "", "endpoint", "A"}, {&f.peer, "peer-", "peer", "B"}} {
		env := func(name string) string {
			if s.prefix != "" {
				return ""
			}
			return getenv(name)
		}
		set.StringVar(&s.to.endpoint, s.name, env("S3_ENDPOINT"), "`URL` of a server that runs; S3_ENDPOINT for the first")
		set.StringVar(&s.to.bin, s.prefix+"serve", "", "ruche `program` to run as the server instead")
		set.StringVar(&s.to.args, s.prefix+"args", "", "further arguments of its \"serve\", separated by blanks")
		set.StringVar(&s.to.label, s.prefix+"label", s.label, "name in the report")
		set.IntVar(&s.to.pid, s.prefix+"pid", 0, "process of the server that runs, for CPU and memory")
		set.StringVar(&s.to.accessKey, s.prefix+"access-key", env("S3_ACCESS_KEY"), "access key; S3_ACCESS_KEY for the first")
		set.StringVar(&s.to.secretKey, s.prefix+"secret-key", env("S3_SECRET_KEY"), "secret key; S3_SECRET_KEY for the first")
		set.StringVar(&s.to.region, s.prefix+"region", cmp.Or(env("S3_REGION"), "fr-metro"), "region; S3_REGION for the first")
		set.StringVar(&s.to.ca, s.prefix+"ca-file", env("S3_CA_FILE"), "PEM `file` of authorities; S3_CA_FILE for the first")
	}
	set.IntVar(&f.drives, "drives", 12, "drive directories of servers that bench starts")
	set.StringVar(&f.drivesRoot, "root", os.TempDir(), "`directory` below which they are made")
	set.BoolVar(&f.keep, "keep", false, "one server for all steps instead of a new one with empty drives for each")
}

func (f *flags) declareLoad(set *flag.FlagSet) {
	set.StringVar(&f.sizes, "sizes", "4KiB,128KiB,1MiB,10MiB,64MiB", "sizes of objects")
	set.StringVar(&f.clients, "clients", "1,8,32", "numbers of clients")
	set.StringVar(&f.steps, "steps", "", "run only the steps whose names match this `regexp`")
	set.BoolVar(&f.list, "list", false, "print the names of the steps and end")
	set.StringVar(&f.payload, "payload", "streaming", "how bodies are signed: streaming (in chunks, as warp does), unsigned or hashed")
	set.BoolVar(&f.large, "large", true, "steps with objects of 1 GiB")
	set.DurationVar(&f.durationText, "duration", 15*time.Second, "time of a step")
	set.DurationVar(&f.warmupText, "warm-up", 3*time.Second, "time that a step runs before it is measured")
	set.IntVar(&f.rounds, "rounds", 1, "times that every step is measured; medians are reported")
	set.StringVar(&f.getSet, "get-set", "256MiB", "size of the set of objects that GETs are spread over, at most 1,000 and at least 2 objects")
	set.IntVar(&f.listKeys, "list-keys", 5000, "keys that LIST goes through")
	set.IntVar(&f.objects, "head-objects", 1000, "objects that HEAD asks for")
	set.IntVar(&f.deletes, "delete-objects", 5000, "objects that DELETE deletes, which ends the step")
	set.BoolVar(&f.quick, "quick", false, "see in seconds that everything works: small sizes, short steps; flags that are given still count")
}

func (f *flags) declareReport(set *flag.FlagSet) {
	set.StringVar(&f.output, "output", "table", "table or json")
	set.StringVar(&f.results, "results", "", "also write the report to this Markdown `file`")
	set.Float64Var(&f.allowed, "allow-errors", 0, "share of calls of a step that may fail before the run fails, 0 to 1")
	set.StringVar(&f.commit, "commit", "", "commit of the server, for the report")
	set.StringVar(&f.durability, "durability", "", "what the servers sync before they answer, for the report")
	set.StringVar(&f.note, "note", "", "anything else, for the report")
	set.StringVar(&f.pprof, "pprof", "", "`URL` of the first server's pprof pages: take a CPU profile of every step")
	set.StringVar(&f.profiles, "profiles", ".", "`directory` of the profiles")
}

// makeQuick makes the run short where no flag says otherwise.
func (f *flags) makeQuick(set *flag.FlagSet) {
	given := make(map[string]bool)
	set.Visit(func(g *flag.Flag) { given[g.Name] = true })
	for name, apply := range map[string]func(){
		"sizes":          func() { f.sizes = "4KiB,1MiB" },
		"clients":        func() { f.clients = "4" },
		"duration":       func() { f.durationText = 150 * time.Millisecond },
		"warm-up":        func() { f.warmupText = 30 * time.Millisecond },
		"large":          func() { f.large = false },
		"get-set":        func() { f.getSet = "8MiB" },
		"list-keys":      func() { f.listKeys = 50 },
		"head-objects":   func() { f.objects = 20 },
		"delete-objects": func() { f.deletes = 100 },
	} {
		if !given[name] {
			apply()
		}
	}
}

// resolve checks the flags and works out what follows from them.
func (f *flags) resolve() error {
	f.duration, f.warmup, f.root = f.durationText, f.warmupText, f.drivesRoot
	sizes, err := parseList(f.sizes, parseSize)
	if err != nil {
		return err
	}
	clients, err := parseList(f.clients, parseCount)
	if err != nil {
		return err
	}
	payload, err := parsePayload(f.payload)
	if err != nil {
		return err
	}
	if f.getBytes, err = parseSize(f.getSet); err != nil {
		return err
	}
	match, err := regexp.Compile(f.steps)
	if err != nil {
		return err
	}
	if f.chosen = choose(matrix(sizes, clients, payload, f.large), match); len(f.chosen) == 0 {
		return fmt.Errorf("no step matches %q; --list prints all", f.steps)
	}
	switch {
	case f.output != "table" && f.output != "json":
		return fmt.Errorf("output %q is neither table nor json", f.output)
	case f.rounds < 1 || f.duration <= 0 || f.warmup < 0 || f.drives < 1 || f.allowed < 0 || f.allowed > 1:
		return errors.New("rounds, duration and drives have to be above 0, errors between 0 and 1")
	case f.listKeys < 1 || f.objects < 1 || f.deletes < 1:
		return errors.New("list-keys, head-objects and delete-objects have to be above 0")
	}
	if f.list {
		return nil
	}
	a, err := f.side(&f.main)
	if err != nil {
		return err
	}
	if a == nil {
		return errors.New("name a server: --serve PROGRAM, or --endpoint or S3_ENDPOINT; --help shows examples")
	}
	f.sides = []*side{a}
	b, err := f.side(&f.peer)
	if err != nil {
		return err
	}
	if b != nil {
		f.sides = append(f.sides, b)
	}
	return nil
}

// side makes a side of its flags; nil if they name none.
func (f *flags) side(s *sideFlags) (*side, error) {
	switch {
	case s.endpoint == "" && s.bin == "":
		return nil, nil
	case s.bin != "":
		return &side{
			label: s.label, target: client.Target{Region: s.region},
			serve: &serve{bin: s.bin, args: strings.Fields(s.args), drives: f.drives, root: f.drivesRoot},
		}, nil
	}
	target := client.Target{Endpoint: strings.TrimRight(s.endpoint, "/"), AccessKey: s.accessKey, SecretKey: s.secretKey, Region: s.region, CAFile: s.ca}
	if _, err := client.New(target); err != nil {
		return nil, err
	}
	return &side{label: s.label, target: target, pid: s.pid}, nil
}
