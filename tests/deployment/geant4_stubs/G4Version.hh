#pragma once
#ifndef G4VERSION_NUMBER
#define G4VERSION_NUMBER 1141
#endif
