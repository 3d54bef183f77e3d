"""How mail is sent: ISPs, pools, strategies, retry and default rules, bounce patterns, keys."""
