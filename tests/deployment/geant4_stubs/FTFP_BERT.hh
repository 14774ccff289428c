#pragma once
#include "G4VModularPhysicsList.hh"
class FTFP_BERT : public G4VModularPhysicsList {};
