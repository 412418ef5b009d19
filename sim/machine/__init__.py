"""Programs, and the two engines that run them; nothing here knows a layer or a chip."""
