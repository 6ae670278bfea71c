package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/ruche-storage/ruche/gateway"
	"github.com/ruche-storage/ruche/gateway/sigv4"
	"github.com/ruche-storage/ruche/gateway/wire"
)

var noon = time.Date(2026, 2, 3, 12, 0, 0, 250_000_000, time.UTC)

const (
	accessKey = "RUCHETESTKEY"
	secret    = "not a secret at all"
)

func lookup(_ context.Context, key string) (sigv4.Credentials, error) {
	if key != accessKey {
		return sigv4.Credentials{}, sigv4.ErrUnknownKey
	}
	return sigv4.Credentials{Secret: secret}, nil
}

// store is a running server in front of a fake engine.
type store struct {
	t       testing.TB
	fake    *fake
	gateway *gateway.Server
	url     string
	addr    string
	client  *http.Client
	signer  sigv4.Signer
}

// start runs a server until the test ends. Its clock stands still.
func start(t testing.TB, change func(*gateway.Options)) *store {
	t.Helper()
	now := func() time.Time { return noon }
	var mu sync.Mutex
	requests := 0
	opts := gateway.Options{
		Lookup: lookup, Owner: wire.Owner{ID: "owner-id", DisplayName: "root"}, Encrypted: true, Now: now, HostID: "host-id",
		RequestID: func() string {
			mu.Lock()
			defer mu.Unlock()
			requests++
			return fmt.Sprintf("%016X", requests)
		},
	}
	if change != nil {
		change(&opts)
	}
	f := newFake(now)
	g, err := gateway.New(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := g.HTTP()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(gateway.Listen(l)) }()
	s := &store{
		t: t, fake: f, gateway: g, addr: l.Addr().String(), url: "http://" + l.Addr().String(),
		client: &http.Client{Transport: &http.Transport{DisableCompression: true}},
		signer: sigv4.Signer{AccessKey: accessKey, Secret: secret, Region: "fr-metro"},
	}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		srv.Close()
		<-served
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer is a reply with its body read.
type answer struct {
	*http.Response
	body string
}

// request makes a request of lines as HTTP has them: method and target,
// headers, an empty line, the body. The line "Host: x" sets the host.
func (s *store) request(text string) *http.Request {
	s.t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimRight(head, "\n"), "\n")
	method, target, _ := strings.Cut(lines[0], " ")
	r, err := http.NewRequest(method, s.url+target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	return r
}

func (s *store) send(r *http.Request) *answer {
	s.t.Helper()
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return &answer{resp, string(body)}
}

// do signs and sends a request of lines.
func (s *store) do(text string) *answer {
	s.t.Helper()
	r := s.request(text)
	if err := s.signer.Sign(r, sigv4.UnsignedPayload, noon); err != nil {
		s.t.Fatal(err)
	}
	return s.send(r)
}

// later sends a signed request from another goroutine. The answer is nil if
// there is none.
func (s *store) later(text string) <-chan *answer {
	s.t.Helper()
	r := s.request(text)
	if err := s.signer.Sign(r, sigv4.UnsignedPayload, noon); err != nil {
		s.t.Fatal(err)
	}
	got := make(chan *answer, 1)
	go func() {
		defer close(got)
		resp, err := s.client.Do(r)
		if err != nil {
			s.t.Error(err)
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			s.t.Error(err)
			return
		}
		got <- &answer{resp, string(body)}
	}()
	return got
}

// must is do for what has to succeed.
func (s *store) must(text string) *answer {
	s.t.Helper()
	a := s.do(text)
	if a.StatusCode/100 != 2 {
		s.t.Fatalf("%s: %d %s", strings.SplitN(text, "\n", 2)[0], a.StatusCode, a.body)
	}
	return a
}

func (a *answer) code() string {
	_, after, _ := strings.Cut(a.body, "<Code>")
	code, _, _ := strings.Cut(after, "</Code>")
	return code
}

// show prints a reply for a script: status, headers, body. XML elements get
// lines of their own.
func (a *answer) show(addr string) string {
	var b strings.Builder
	fmt.Fprintln(&b, a.StatusCode)
	var lines []string
	for name, values := range a.Header {
		switch name {
		case "Date", "X-Amz-Id-2", "X-Amz-Request-Id", "Server":
			if len(values) != 1 || values[0] == "" {
				lines = append(lines, name+" is missing")
			}
			continue
		}
		lines = append(lines, name+": "+strings.Join(values, ", "))
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(&b, l)
	}
	if a.body != "" {
		fmt.Fprintln(&b)
		body := strings.ReplaceAll(a.body, a.Header.Get("X-Amz-Request-Id"), "REQUEST")
		if strings.HasPrefix(body, "<?xml") {
			body = strings.ReplaceAll(body, "><", ">\n<")
		}
		fmt.Fprintln(&b, body)
	}
	return strings.ReplaceAll(b.String(), addr, "ADDRESS")
}

// TestScripts runs testdata/s3: requests as a client sends them, and the whole
// replies. Each file has a store of its own. Commands:
//
//	do         signed in the header, payload unsigned
//	presigned  signed in the query
//	anonymous  not signed
//	fault      call=NAME error=NAME: what the engine answers from now on
func TestScripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/s3", func(t *testing.T, path string) {
		s := start(t, func(o *gateway.Options) {
			o.Domains = []string{"s3.example.org"}
			o.StorageClasses = []string{"GLACIER_IR"}
			if strings.Contains(path, "plain") {
				o.Encrypted = false
			}
			if strings.Contains(path, "us-east") {
				o.Region = "us-east-1"
			}
		})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "fault":
				var call, name string
				d.ScanArgs(t, "call", &call)
				d.ScanArgs(t, "error", &name)
				s.fake.mu.Lock()
				s.fake.fault[call] = faults[name]
				s.fake.mu.Unlock()
				return ""
			case "do", "presigned", "anonymous":
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			r := s.request(d.Input)
			switch d.Cmd {
			case "do":
				if err := s.signer.Sign(r, sigv4.UnsignedPayload, noon); err != nil {
					d.Fatalf(t, "%v", err)
				}
			case "presigned":
				signed, err := s.signer.Presign(r, time.Hour, noon)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				if r.URL, err = url.Parse(signed); err != nil {
					d.Fatalf(t, "%v", err)
				}
			}
			return s.send(r).show(s.addr)
		})
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	good := gateway.Options{Lookup: lookup, Owner: wire.Owner{ID: "o"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(*gateway.Options){
		"lookup":   func(o *gateway.Options) { o.Lookup = nil },
		"owner":    func(o *gateway.Options) { o.Owner.ID = "" },
		"requests": func(o *gateway.Options) { o.MaxRequests = -1 },
		"negative": func(o *gateway.Options) { o.IdleTimeout = -1 },
		"domain":   func(o *gateway.Options) { o.Domains = []string{"S3.example.org:9000"} },
		"public":   func(o *gateway.Options) { o.PublicURLs = []string{"s3.example.org"} },
	}
	for name, change := range tests {
		o := good
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := gateway.New(newFake(time.Now), o); err == nil {
			t.Errorf("%s: New took it", name)
		}
	}
}
