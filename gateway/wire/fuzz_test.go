package wire_test

import (
	"math/big"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/gateway/wire"
)

// FuzzRange compares ranges with what a regular expression and numbers of any
// length say.
func FuzzRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-1", "bytes=-0", "bytes=5-", "bytes=9223372036854775807-9223372036854775808", "bytes=1-0", "bytes=00-01", "bytes=-"} {
		f.Add(seed)
	}
	form := regexp.MustCompile(`^bytes=([0-9]{0,100})-([0-9]{0,100})$`)
	number := func(s string) *big.Int {
		n, _ := new(big.Int).SetString(s, 10)
		if n != nil && !n.IsInt64() {
			n.SetInt64(1<<63 - 1)
		}
		return n
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want wire.Range
		m := form.FindStringSubmatch(s)
		ok := m != nil
		if ok {
			first, last := number(m[1]), number(m[2])
			switch {
			case first == nil && last == nil:
				ok = false
			case first == nil:
				want = wire.Range{Suffix: true, Last: last.Int64()}
			case last == nil:
				want = wire.Range{First: first.Int64(), Last: -1}
			default:
				want = wire.Range{First: first.Int64(), Last: last.Int64()}
				ok = first.Cmp(last) <= 0
			}
		}
		got, valid := wire.ParseRange(s)
		if valid != ok || ok && got != want {
			t.Errorf("ParseRange(%q) = %+v, %v; want %+v, %v", s, got, valid, want, ok)
		}
		first, last, copies := wire.ParseCopyRange(s)
		if wantCopy := ok && !want.Suffix && want.Last >= 0; copies != wantCopy || copies && (first != want.First || last != want.Last) {
			t.Errorf("ParseCopyRange(%q) = %d, %d, %v; want %+v, %v", s, first, last, copies, want, wantCopy)
		}
	})
}

// FuzzCopySource writes what was understood as clients do: it is understood the
// same way again.
func FuzzCopySource(f *testing.F) {
	for _, seed := range []string{"/b01/k%20+?versionId=x", "b01/a%2Fb?versionId=", "/b01//", "b01/k?versionId=a?versionId=b", "arn:aws:s3:::x/y", "b01/%ff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		bucket, key, version, err := wire.ParseCopySource(s)
		if err != nil {
			if !answerable(err) {
				t.Errorf("no answer for %v", err)
			}
			return
		}
		again := "/" + bucket + "/" + url.PathEscape(key)
		if version != "" {
			again += "?versionId=" + url.PathEscape(version)
		}
		b, k, v, err := wire.ParseCopySource(again)
		if b != bucket || k != key || v != version || err != nil {
			t.Errorf("%q is %q, %q, %q; written as %q, it is %q, %q, %q, %v", s, bucket, key, version, again, b, k, v, err)
		}
	})
}

// FuzzBucketName compares names with rules that are told by regular expressions.
func FuzzBucketName(f *testing.F) {
	for _, seed := range []string{"abc", "a.b-c", "1.2.3.4", "1.2.3", "a..b", "a-.b", "xn--a", "a--x-s3", "-ab", "ab."} {
		f.Add(seed)
	}
	labels := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	address := regexp.MustCompile(`^[0-9]*\.[0-9]*\.[0-9]*\.[0-9]*$`)
	reserved := regexp.MustCompile(`^(xn--|sthree-|amzn-s3-demo-)|(-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)$`)
	f.Fuzz(func(t *testing.T, s string) {
		want := len(s) >= 3 && len(s) <= 63 && labels.MatchString(s) && !address.MatchString(s) && !reserved.MatchString(s)
		if got := wire.ValidBucketName(s); got != want {
			t.Errorf("ValidBucketName(%q) = %v", s, got)
		}
		if wire.ValidBucketName(s) && net.ParseIP(s) != nil {
			t.Errorf("%q is an address", s)
		}
	})
}

// FuzzETags: a list of what was found is the same list.
func FuzzETags(f *testing.F) {
	for _, seed := range []string{`"a,b", W/"c", d`, `*`, `""`, `W/,"`, `"a" "b",c`, strings.Repeat("a,", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tags := wire.ParseETags(s)
		var quoted []string
		for _, tag := range tags {
			if tag == "" {
				t.Errorf("ParseETags(%q) has an empty tag", s)
			}
			if strings.Contains(tag, `"`) {
				return // cannot be quoted
			}
			quoted = append(quoted, wire.QuoteETag(tag))
		}
		if again := wire.ParseETags(strings.Join(quoted, ",")); len(tags) > 64 || !slices.Equal(again, tags) {
			t.Errorf("ParseETags(%q) = %q, and of these %q", s, tags, again)
		}
	})
}

// FuzzTagging: tags that were taken, written as a query, are the same tags.
func FuzzTagging(f *testing.F) {
	for _, seed := range []string{"a=b&c=d%20", "a&&b=", "=x", "a=1&a=2", "%zz", strings.Repeat("k=v&", 11)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tags, err := wire.ParseTagging(s)
		if err != nil {
			if !answerable(err) {
				t.Errorf("no answer for %v", err)
			}
			return
		}
		var pairs []string
		for _, tag := range tags {
			pairs = append(pairs, url.QueryEscape(tag.Key)+"="+url.QueryEscape(tag.Value))
		}
		again, err := wire.ParseTagging(strings.Join(pairs, "&"))
		if err != nil || !slices.Equal(again, tags) || len(tags) > 10 {
			t.Errorf("ParseTagging(%q) = %q, and of these %q, %v", s, tags, again, err)
		}
	})
}

// FuzzTime: a time that was understood is written, and that is understood as the
// same time.
func FuzzTime(f *testing.F) {
	for _, seed := range []string{"2026-02-03T04:05:06Z", "Mon, 02 Jan 2006 15:04:05 GMT", "20060102T150405Z", "2006-01-02T15:04:05.999999999+23:59", "Mon Jan _2 15:04:05 2006"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, ok := wire.ParseTime(s)
		if !ok || at.Year() < 0 || at.Year() > 9999 {
			return
		}
		if again, ok := wire.ParseTime(string(wire.AppendTime(nil, at))); !ok || !again.Equal(at.Truncate(time.Millisecond)) {
			t.Errorf("%q is %v; written and read it is %v", s, at, again)
		}
		if again, ok := wire.ParseTime(wire.HTTPTime(at)); !ok || !again.Equal(at.Truncate(time.Second)) {
			t.Errorf("%q is %v; written as in headers and read it is %v", s, at, again)
		}
	})
}
