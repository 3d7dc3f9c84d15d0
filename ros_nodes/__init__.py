"""Shells that put the agent, a simulated robot, microphones and the safety supervisor on ROS 2's wire."""
