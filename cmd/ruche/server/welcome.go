package server

import (
	"fmt"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// heading marks the lines that matter most, if the output has colours.
func (p *process) heading(text string) string {
	if !p.Colours {
		return text
	}
	return lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("3")).Render(text)
}

// showRecoveryCode prints the recovery code, once in the life of a store.
func (p *process) showRecoveryCode(code string) error {
	_, err := fmt.Fprintf(p.Out, `
%s

    %s

  Write it down and keep it away from this machine. It opens the sealed copies
  of the encryption keys that lie on every drive. It is not shown again and not
  stored anywhere. Check it later with "ruche keyring verify".

`, p.heading("RECOVERY CODE of the encryption keys"), code)
	return err
}

// welcome is what a server prints once it serves: where it is, and what to
// paste into clients.
func (p *process) welcome(e admin.Endpoints) string {
	var out strings.Builder
	line := func(name, value string) { fmt.Fprintf(&out, "  %-12s %s\n", name, value) }
	fmt.Fprintf(&out, "%s\n", p.heading("Ruche "+p.Version+" is serving"))
	for _, u := range e.S3 {
		line("S3", u)
	}
	for _, u := range e.Admin {
		line("admin", u)
	}
	line("region", p.c.Region)
	line("drives", fmt.Sprintf("%d of %d, scheme %s", len(p.node.Drives()), len(p.c.DrivePaths()), p.id.Scheme))
	line("access key", p.root.AccessKey)
	secret := "as configured, or in " + CredentialsFile + " in " + p.dir
	if p.first.rootGenerated {
		secret = p.root.Secret + "  (shown once; kept in " + CredentialsFile + " in " + p.dir + ")"
	}
	line("secret key", secret)
	if p.net.generated {
		line("certificate", p.net.cert.certFile)
		line("", "self-signed, SHA-256 fingerprint:")
		line("", fingerprint(p.net.cert.pair.Certificate[0]))
	}
	p.snippets(&out, e)
	return out.String()
}

// snippets writes commands that work when pasted. The secret is in them only
// when it was shown above anyway.
func (p *process) snippets(out *strings.Builder, e admin.Endpoints) {
	secret := "SECRET-KEY"
	if p.first.rootGenerated {
		secret = p.root.Secret
	}
	trustAWS, trustRclone := "", ""
	if p.net.generated {
		trustAWS = "export AWS_CA_BUNDLE=" + quote(e.Certificate) + "\n    "
		trustRclone = " --ca-cert " + quote(e.Certificate)
	}
	fmt.Fprintf(out, `
  aws:
    export AWS_ACCESS_KEY_ID=%[1]s AWS_SECRET_ACCESS_KEY=%[2]s AWS_REGION=%[3]s
    %[5]saws --endpoint-url %[4]s s3 mb s3://my-bucket

  rclone:
    rclone config create ruche s3 provider=Other endpoint=%[4]s region=%[3]s access_key_id=%[1]s secret_access_key=%[2]s
    rclone%[6]s lsd ruche:

`, quote(p.root.AccessKey), quote(secret), p.c.Region, e.S3[0], trustAWS, trustRclone)
}

// quote quotes a word for a shell if it needs to be.
func quote(s string) string {
	plain := func(r rune) bool {
		return strings.ContainsRune("./+:-_@%=", r) || (r >= '0' && r <= '9') || (r >= 'A' && r <= 'Z') || (r >= 'a' && r <= 'z')
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
