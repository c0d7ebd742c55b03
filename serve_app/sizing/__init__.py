"""How much hardware a load needs: memory and roofline arithmetic, and a simulator of the whole system. Pure."""
