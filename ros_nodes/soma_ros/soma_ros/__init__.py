"""The ROS package of the Soma agent; its nodes are ros_nodes of the distribution soma-agent."""
