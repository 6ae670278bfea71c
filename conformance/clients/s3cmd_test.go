package clients

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

func TestS3cmd(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T) string { return find(t, "s3cmd") }, func(p *program) {
		p.version("--version")
		config := fmt.Sprintf("[default]\naccess_key = %s\nsecret_key = %s\nhost_base = %s\nhost_bucket = %s\nbucket_location = %s\n"+
			"use_https = %v\nca_certs_file = %s\nmultipart_chunk_size_mb = 5\nmax_retries = 1\n",
			p.target.AccessKey, p.target.SecretKey, p.target.Host(), p.target.Host(), p.target.Region, p.target.Secure(), p.target.CAFile)
		p.args = []string{"-c", p.write("s3cfg", []byte(config)), "--no-progress"}
		bucket := "s3://" + p.bucket
		src := p.tree("src")
		p.run("mb", bucket)
		p.wantIn(p.run("ls"), p.bucket)
		p.wantIn(p.run("info", bucket), "Location:  "+p.target.Region) // asks for the configuration
		p.run("put", filepath.Join(src, "small.txt"), bucket+"/small")
		p.run("put", filepath.Join(src, "empty"), bucket+"/empty")
		p.run("put", filepath.Join(src, "big.bin"), bucket+"/big") // in parts
		p.feed(noise(6*mib, "stdin"), "put", "-", bucket+"/stdin")
		for key, want := range map[string][]byte{
			"small": noise(3000, "small.txt"), "empty": nil, "big": noise(11*mib+17, "big.bin"), "stdin": noise(6*mib, "stdin"),
		} {
			back := filepath.Join(p.home, "back-"+key)
			p.run("get", bucket+"/"+key, back)
			p.sameFile(back, want)
		}
		p.wantIn(p.run("info", bucket+"/small"), "File size: 3000", "MD5 sum:")
		p.wantIn(p.run("ls", bucket), bucket+"/big", bucket+"/stdin")
		p.run("sync", src+"/", bucket+"/tree/")
		if again := p.run("sync", src+"/", bucket+"/tree/"); strings.Contains(again, "upload:") {
			p.t.Errorf("a second sync uploads again:\n%s", again)
		}
		p.run("sync", bucket+"/tree/", p.write("dst/.keep", nil)[:len(p.home)+len("/dst/")])
		want, got := hashes(p.t, src), hashes(p.t, filepath.Join(p.home, "dst"))
		delete(got, ".keep")
		if len(got) != len(want) {
			p.t.Errorf("%d files came back of %d", len(got), len(want))
		}
		for name, hash := range want {
			if got[name] != hash {
				p.t.Errorf("%s: %s, want %s", name, got[name], hash)
			}
		}
		p.run("cp", bucket+"/small", bucket+"/copy")
		p.run("mv", bucket+"/copy", bucket+"/moved")
		p.run("modify", "--add-header=x-amz-meta-color:blue", bucket+"/moved") // copies onto itself
		p.wantIn(p.run("info", bucket+"/moved"), "x-amz-meta-color")
		p.wantIn(p.run("du", bucket+"/tree/"), " 8 objects ")
		p.run("multipart", bucket)
		p.run("del", bucket+"/small")
		p.run("del", "--recursive", "--force", bucket+"/tree/") // DeleteObjects
		p.fails("rb", bucket)
		p.run("rb", "--recursive", "--force", bucket)
		p.fails("ls", bucket)
	})
}
