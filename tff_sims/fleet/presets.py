"""The fleet that is simulated where the user names none: phones on four kinds of links.

Bandwidths and latencies: WebPageTest's connectivity profiles (its connectivity.ini.sample): FIOS
for Wi-Fi (latency ours), 4G (second-hand), 3G, and Edge for 2G. Failures of 6 to 10 %, and four
times as many devices at night as by day: Bonawitz et al., "Towards federated learning at scale"
(arXiv 1902.01046), second-hand, as is asking for 30 % more. Ours: the spreads, the shares, lost
packets, how fast a phone is, and how many are free at all.
"""

DEFAULT = """\
name,share,down_mbps,up_mbps,latency_s,loss,speed,availability,night_availability,zone_h,failure
wifi,0.55,lognormal 20 0.8,lognormal 5 0.8,lognormal 0.02 0.5,0.001,lognormal 0.3 0.5,0.02,0.08,uniform 0 24,uniform 0.06 0.1
4G,0.30,lognormal 9 0.7,lognormal 9 0.7,lognormal 0.17 0.4,0.005,lognormal 0.3 0.5,0.02,0.08,uniform 0 24,uniform 0.06 0.1
3G,0.12,lognormal 1.6 0.5,lognormal 0.768 0.5,lognormal 0.3 0.4,0.01,lognormal 0.2 0.5,0.02,0.08,uniform 0 24,uniform 0.06 0.1
2G,0.03,lognormal 0.24 0.4,lognormal 0.2 0.4,lognormal 0.84 0.4,0.02,lognormal 0.1 0.5,0.02,0.08,uniform 0 24,uniform 0.06 0.1
"""  # noqa: E501 - a table
