package gateway

import (
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ruche-storage/ruche/gateway/checksum"
	"github.com/ruche-storage/ruche/gateway/wire"
	"github.com/ruche-storage/ruche/metadata"
)

// answered fails unless an error has an answer of S3.
func answered(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*wire.Error](err); !ok {
		t.Errorf("no answer for %v", err)
	}
}

// FuzzList reads the parameters of lists, and compares them with the rules told
// in another way.
func FuzzList(f *testing.F) {
	f.Add("prefix=a%2F&delimiter=%2F&max-keys=7&encoding-type=url")
	f.Add("max-keys=1001&start-after=%ff")
	f.Add("max-keys=-1&encoding-type=x")
	f.Add("max-keys=99999999999999999999&continuation-token=AWE")
	f.Add("list-type=2&continuation-token=%00")
	digits := regexp.MustCompile(`^[0-9]{1,100}$`)
	f.Fuzz(func(t *testing.T, raw string) {
		query, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		prefix, delimiter, encoding, limit, err := listQuery(&call{query: query}, "max-keys")
		count := query.Get("max-keys")
		n, _ := new(big.Int).SetString(count, 10)
		valid := (count == "" || digits.MatchString(count) && n.Cmp(big.NewInt(1<<31-1)) <= 0) && slices.Contains([]string{"", "url"}, query.Get("encoding-type"))
		for _, name := range []string{"prefix", "delimiter", "marker", "start-after", "key-marker"} {
			valid = valid && utf8.ValidString(query.Get(name))
		}
		switch {
		case valid != (err == nil):
			t.Errorf("%q: %v", raw, err)
		case err != nil:
			answered(t, err)
		case prefix != query.Get("prefix") || delimiter != query.Get("delimiter") || encoding != query.Get("encoding-type"):
			t.Errorf("%q: prefix %q, delimiter %q, encoding %q", raw, prefix, delimiter, encoding)
		case count == "" && limit != maxPage || count != "" && n.Cmp(big.NewInt(maxPage)) < 0 && int64(limit) != n.Int64() || limit > maxPage:
			t.Errorf("%q: limit %d", raw, limit)
		}
	})
}

// FuzzToken: the place behind a token is one that a list may have ended at, and
// every such place comes back from its token.
func FuzzToken(f *testing.F) {
	f.Add(sealToken("a/b"))
	f.Add("")
	f.Add("AQ==")
	f.Add("é\x00")
	f.Fuzz(func(t *testing.T, s string) {
		if after, err := openToken(s); err != nil {
			answered(t, err)
		} else if !utf8.ValidString(after) || len(after) > 2*wire.MaxKeyBytes {
			t.Errorf("token %q stands for %q", s, after)
		} else if raw, err := base64.RawURLEncoding.DecodeString(sealToken(after)); err != nil || !strings.HasSuffix(string(raw), after) {
			t.Errorf("token of %q: %q, %v", after, raw, err)
		}
		after, err := openToken(sealToken(s))
		if want := utf8.ValidString(s) && len(s) <= 2*wire.MaxKeyBytes; want != (err == nil) || want && after != s {
			t.Errorf("the token of %q stands for %q, %v", s, after, err)
		}
	})
}

// FuzzHeaders reads what headers say of a body: an error has an answer, and a
// checksum has the length of its algorithm.
func FuzzHeaders(f *testing.F) {
	f.Add("NhCmhg==", "", "CRC32", "x-amz-checksum-crc32", "XUFAKrxLKna5cZ2REBfFkg==")
	f.Add("", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "SHA256", "", "")
	f.Add("", "", "crc64nvme", "x-amz-checksum-crc64nvme", "x")
	f.Fuzz(func(t *testing.T, crc, sha, algorithm, trailer, md5 string) {
		h := http.Header{}
		for name, v := range map[string]string{"X-Amz-Checksum-Crc32": crc, "X-Amz-Checksum-Sha256": sha, "X-Amz-Sdk-Checksum-Algorithm": algorithm, "Content-Md5": md5} {
			if v != "" {
				h.Set(name, v)
			}
		}
		sum, name, err := announcedChecksum(h, strings.Fields(trailer))
		if err != nil {
			answered(t, err)
		} else if sum.Algorithm != metadata.ChecksumNone && (name == "") == (sum.Value == "") {
			t.Errorf("checksum %+v and trailer %q", sum, name)
		} else if sum.Value != "" && checksum.Header(sum.Algorithm) == "" {
			t.Errorf("checksum %+v of no header", sum)
		}
		got, err := contentMD5(h)
		want, bad := base64.StdEncoding.DecodeString(md5)
		switch {
		case err != nil:
			answered(t, err)
			if bad == nil && len(want) == 16 {
				t.Errorf("Content-MD5 %q: %v", md5, err)
			}
		case got != nil && string(got[:]) != string(want):
			t.Errorf("Content-MD5 %q is %x", md5, *got)
		}
	})
}

// FuzzForwarded: what clients and proxies claim never makes the client's
// address one that is not an address, and counts only if a proxy may say it.
func FuzzForwarded(f *testing.F) {
	f.Add("10.0.0.1:1", "192.0.2.1, 10.0.0.2")
	f.Add("10.0.0.1:1", "x, 10.0.0.2")
	f.Add("192.0.2.9:1", "10.0.0.3")
	f.Add("[::ffff:10.0.0.1]:1", "fe80::1%eth0,,")
	s := &Server{opts: Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	f.Fuzz(func(t *testing.T, peer, claim string) {
		got := s.clientAddr(&http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {claim}}})
		if got == hostOf(peer) {
			return
		}
		if !s.trusted(hostOf(peer)) {
			t.Errorf("%q may not speak for %q", peer, got)
		}
		if _, err := netip.ParseAddr(got); err != nil {
			t.Errorf("%q behind %q: %v", got, claim, err)
		}
		// All hops behind the client are proxies.
		at := strings.LastIndex(claim, got)
		for _, hop := range strings.Split(claim[at+len(got):], ",")[1:] {
			if !s.trusted(strings.TrimSpace(hop)) {
				t.Errorf("%q behind %q, which is behind %q", got, claim, hop)
			}
		}
	})
}
