package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestDurability(t *testing.T) {
	t.Parallel()
	for file, args := range map[string][]string{
		"durability-one-machine.txt": {"durability"},
		"durability-three-sites.txt": {"durability", "--scheme", "7+5", "--sites", "3", "--drives", "72", "--afr", "1.5%"},
		"durability-no-margin.txt":   {"durability", "--scheme", "6+3", "--sites", "3", "--drives", "144", "--repair", "90m"},
		"durability-two-sites.txt":   {"durability", "--scheme", "4+2", "--sites", "2", "--site-loss", "0.002"},
		"durability.json":            {"durability", "--scheme", "7+5", "--sites", "3", "--output", "json"},
	} {
		code, stdout, stderr := alone(t, nil, args...)
		if code != exitOK || stderr != "" {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
		golden(t, file, stdout)
	}
}

// TestDurabilityFiguresOfTheDesign has what the design chose schemes by.
func TestDurabilityFiguresOfTheDesign(t *testing.T) {
	t.Parallel()
	_, stdout, _ := alone(t, nil, "durability", "--scheme", "7+5", "--sites", "3", "--output", "json")
	var got durabilityJSON
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if got.Drives.Nines == nil || math.Abs(*got.Drives.Nines-17.9) > 0.05 ||
		got.SiteAndDrives.Nines == nil || math.Abs(*got.SiteAndDrives.Nines-8.2) > 0.05 ||
		got.SiteMargin == nil || *got.SiteMargin != 1 {
		t.Errorf("7+5 over three sites: %s", stdout)
	}
}

func TestDurabilityOfNonsense(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--scheme 7-5":                "scheme: \"7-5\" is not data+parity, such as 4+2",
		"--scheme 0+2":                "scheme: 0+2 needs at least 1 data shard",
		"--scheme 7+5 --sites 13":     "--sites must be from 1 to the 12 shards",
		"--scheme 7+5 --drives 11":    "--drives must be at least the 12",
		"--afr 150%":                  "--afr must be more than 0 and less than 100 %",
		"--afr often":                 `"often" is not a share, such as 1.5% or 0.015`,
		"--repair 0s":                 "--repair must be more than 0",
		"--repair 2d":                 "--repair",
		"--groups -1":                 "--groups must be at least 1",
		"--sites 2 --site-loss -0.1%": "--site-loss must be at least 0",
		"--site 3":                    "unknown flag: --site",
	} {
		code, stdout, stderr := alone(t, nil, append([]string{"durability"}, strings.Fields(args)...)...)
		if code != exitUsage || !strings.Contains(stderr, want) || stdout != "" {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, stderr, want)
		}
	}
}
